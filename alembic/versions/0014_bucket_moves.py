"""A move of buckets has an id, which both databases know while it is under way."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE pair_buckets ADD COLUMN move text NOT NULL DEFAULT ''")


def downgrade() -> None:
    op.execute("ALTER TABLE pair_buckets DROP COLUMN move")

"""The buckets of products that are in this database, where there is more than one PostgreSQL."""

from alembic import op

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None

# One row, or none while all products are here. Those of `moving` move to another database.
# The ranges are written as ``app.buckets`` writes them.
TABLE = r"""
CREATE TABLE pair_buckets (
    singleton boolean NOT NULL DEFAULT true,
    held text NOT NULL,
    moving text NOT NULL DEFAULT '',
    CONSTRAINT pk_pair_buckets PRIMARY KEY (singleton),
    CONSTRAINT ck_pair_buckets_singleton CHECK (singleton)
);
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE pair_buckets")

"""What tells one history of the database from another is stored: the timeline, the time of the server's start, or both."""

import runpy
from pathlib import Path

from alembic import op

from app.cache.postgres.cached_table import histories

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(histories(release=2))


def downgrade() -> None:
    before = runpy.run_path(str(Path(__file__).with_name("0005_cached_tables.py")))
    text = before["cache_tables"](release=1)
    op.execute(text[text.index("CREATE OR REPLACE FUNCTION larder_epoch") : text.index("-- The epoch, or the reason why")])
    op.execute("ALTER TABLE cache_generations DROP COLUMN by_timeline, DROP COLUMN by_start")

"""A mark of the feed asks for the epoch of each table once, however many partitions its cache has."""

import runpy
from pathlib import Path

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_BY_ROW = """
    WITH audits AS MATERIALIZED (
        SELECT a.snapshot, a.epoch IS NOT DISTINCT FROM (larder_try_epoch(a.relation, 2147483647)).epoch AS current,
            a.fenced_until + margin > statement_timestamp() AS trusted
        FROM cache_audits a
    )
"""
_BY_TABLE = """
    WITH epochs AS MATERIALIZED (
        SELECT relation, (larder_try_epoch(relation, 2147483647)).epoch
        FROM (SELECT DISTINCT relation FROM cache_audits) AS tables
    ), audits AS MATERIALIZED (
        SELECT a.snapshot, a.epoch IS NOT DISTINCT FROM e.epoch AS current,
            a.fenced_until + margin > statement_timestamp() AS trusted
        FROM cache_audits a JOIN epochs e USING (relation)
    )
"""


def _mark() -> str:
    """Return the function that makes a mark, as revision 0007 has it."""
    text: str = runpy.run_path(str(Path(__file__).with_name("0007_change_feed.py")))["MARK"]
    function, _, _ = text.partition("\n-- Fences of another namespace")
    return function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


def upgrade() -> None:
    op.execute(_mark().replace(_BY_ROW, _BY_TABLE))


def downgrade() -> None:
    op.execute(_mark())

"""SQL that deletes a product locks the reservations of its lines before it closes these lines."""

import runpy
from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Whoever closes another line of one of them, of another product, is waited for. The next statement sees that line closed;
# otherwise nobody would note that the reservation's last line is closed, and the row would stay for ever.
CLOSE = r"""
CREATE OR REPLACE FUNCTION larder_close_lines(product text) RETURNS void LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM reservations WHERE id IN (
        SELECT reservation_id FROM reservation_lines WHERE open > 0 AND (product IS NULL OR product_id = product)
    ) ORDER BY id FOR NO KEY UPDATE;
    WITH closed AS (
        UPDATE reservation_lines SET released = released + open
            WHERE open > 0 AND (product IS NULL OR product_id = product) RETURNING reservation_id, line
    )
    UPDATE reservations r SET
        version = r.version + 1, updated_at = greatest(larder_moment(), r.updated_at),
        status = CASE WHEN r.status = 'held' AND rest.nothing THEN 'released' ELSE r.status END,
        closed_at = CASE WHEN rest.nothing THEN larder_moment() END
    FROM (
        SELECT c.reservation_id, NOT EXISTS (
            SELECT FROM reservation_lines l WHERE l.reservation_id = c.reservation_id AND l.open > 0
                AND NOT EXISTS (SELECT FROM closed o WHERE o.reservation_id = l.reservation_id AND o.line = l.line)
        ) AS nothing
        FROM closed c GROUP BY c.reservation_id
    ) AS rest
    WHERE r.id = rest.reservation_id;
END
$$;
"""


def upgrade() -> None:
    op.execute(CLOSE)


def downgrade() -> None:
    before = runpy.run_path(str(Path(__file__).with_name("0008_reservations.py")))["CLOSE"]
    op.execute(before.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))

"""The feed's SQL statements. The text below each describes its effect or result and the reason for its form.

A *mark* is the snapshot of a completed audit, and a *window* is what one mark contains and an earlier one does not. Marks are
made by the function ``larder_feed_mark``, which the completion of an audit calls.
"""

from typing import LiteralString

from psycopg.sql import SQL, Composed, Identifier

from app.products.source import PRODUCTS

NEWEST: LiteralString = """
WITH history AS MATERIALIZED (SELECT larder_epoch('products', %(knows)s::integer) AS epoch)
SELECT history.epoch, m.number, extract(epoch FROM clock_timestamp() - m.taken_at)::float8, NOT EXISTS (
    SELECT FROM cache_audits WHERE fenced_until + make_interval(secs => %(margin_s)s) > statement_timestamp()
)
FROM history
    LEFT JOIN (SELECT number, epoch, taken_at FROM feed_marks ORDER BY number DESC LIMIT 1) m ON m.epoch = history.epoch
"""
"""Returns the present epoch, the number and age of its newest mark, and whether the fences of all namespaces have lapsed."""

MARK: LiteralString = "SELECT larder_feed_mark(make_interval(secs => %(margin_s)s))"
"""Makes a mark without an audit if no slot is trusted, because Redis is away. Returns whether it did."""

STEP: LiteralString = """
WITH first AS MATERIALIZED (
    SELECT pg_snapshot_xmax(snapshot) AS xid FROM feed_marks WHERE number = %(since)s
), enough AS MATERIALIZED (
    SELECT least(
        (SELECT changed_xid FROM products WHERE %(products)s::boolean AND changed_xid >= first.xid
            ORDER BY changed_xid OFFSET %(limit)s LIMIT 1),
        (SELECT xid FROM stock_movements WHERE %(movements)s::boolean AND xid >= first.xid AND xid > '0'
            ORDER BY xid OFFSET %(limit)s LIMIT 1),
        (SELECT changed_xid FROM reservations WHERE %(reservations)s::boolean AND changed_xid >= first.xid
            ORDER BY changed_xid OFFSET %(limit)s LIMIT 1)
    ) AS xid FROM first
)
SELECT coalesce(
    max(number) FILTER (WHERE enough.xid IS NULL OR pg_snapshot_xmax(snapshot) <= enough.xid), min(number), %(upto)s::bigint
)
FROM enough, LATERAL (
    SELECT number, snapshot FROM feed_marks WHERE number > %(since)s AND number <= %(upto)s ORDER BY number LIMIT %(limit)s
) marks
"""
"""Returns the last of the marks up to which no more than ``limit`` rows of a type were changed, but at least the next mark.

Whoever is far behind goes on in windows of that size. Each mark has something to tell, so no more than ``limit`` are looked at.
"""

_BOUNDS: LiteralString = """
WITH history AS MATERIALIZED (
    SELECT larder_epoch('products', %(knows)s::integer) AS epoch, payload_schema
    FROM cache_generations WHERE relation = 'products'
), bounds AS MATERIALIZED (
    SELECT history.epoch, history.payload_schema, s.number AS since, u.number AS upto, u.snapshot,
        pg_snapshot_xmax(s.snapshot) AS first, pg_snapshot_xmax(u.snapshot) AS beyond,
        ARRAY(SELECT x FROM pg_snapshot_xip(s.snapshot) AS x WHERE pg_visible_in_snapshot(x, u.snapshot)) AS ended
    FROM history
        LEFT JOIN feed_marks s ON s.number = %(since)s AND s.epoch = history.epoch
        LEFT JOIN feed_marks u ON u.number = %(upto)s AND u.epoch = history.epoch
)"""
_FOUND: LiteralString = """, changed AS MATERIALIZED (
    SELECT c.* FROM bounds, LATERAL (
        (SELECT changed_xid AS xid, id, version, -1 AS line FROM products
            WHERE %(products)s::boolean AND changed_xid >= first AND changed_xid < beyond OFFSET 0)
        UNION ALL (SELECT changed_xid, id, version, -1 FROM products
            WHERE %(products)s::boolean AND changed_xid = ANY (ended) OFFSET 0)
        UNION ALL (SELECT xid, product_id, version, line FROM stock_movements
            WHERE %(movements)s::boolean AND xid >= first AND xid < beyond AND xid > '0' OFFSET 0)
        UNION ALL (SELECT xid, product_id, version, line FROM stock_movements
            WHERE %(movements)s::boolean AND xid = ANY (ended) AND xid > '0' OFFSET 0)
        UNION ALL (SELECT changed_xid, id, version, -2 FROM reservations
            WHERE %(reservations)s::boolean AND changed_xid >= first AND changed_xid < beyond OFFSET 0)
        UNION ALL (SELECT changed_xid, id, version, -2 FROM reservations
            WHERE %(reservations)s::boolean AND changed_xid = ANY (ended) OFFSET 0)
    ) c
), page AS MATERIALIZED (
    SELECT c.id, c.version, c.line FROM bounds, changed c
    WHERE pg_visible_in_snapshot(c.xid, bounds.snapshot)
        AND (c.id, c.version, c.line) > (%(id)s::text COLLATE "C", %(version)s::bigint, %(line)s::integer)
    ORDER BY c.id, c.version, c.line LIMIT %(limit)s
)
"""
_GIVEN: LiteralString = """, page AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::text[], %(versions)s::bigint[], %(lines)s::integer[]) AS given (id, version, line)
)
"""
_ROWS: LiteralString = """
SELECT bounds.epoch, bounds.payload_schema, bounds.since, bounds.upto, page.id, page.version, page.line,
    m.delta, m.stock_after, m.reason, m.reference, m.created_at, m.reserved_delta, m.reserved_after, m.reservation_id,
    v.reference, v.status, v.expires_at, v.created_at, v.updated_at, v.lines,
    CASE WHEN p.id IS NOT NULL THEN p.{tombstone} IS NULL END, {columns}
FROM bounds LEFT JOIN page ON true
    LEFT JOIN LATERAL (
        SELECT * FROM products r WHERE page.line = -1 AND r.id = page.id AND r.version = page.version LIMIT 1
    ) p ON true
    LEFT JOIN LATERAL (
        SELECT * FROM stock_movements r
        WHERE page.line >= 0 AND (r.product_id, r.version, r.line) = (page.id, page.version, page.line) LIMIT 1
    ) m ON true
    LEFT JOIN LATERAL (
        SELECT r.*, (
            SELECT json_agg(json_build_array(l.product_id, l.quantity, l.committed, l.released, l.expired) ORDER BY l.line)
            FROM reservation_lines l WHERE l.reservation_id = page.id
        ) AS lines
        FROM reservations r WHERE page.line = -2 AND r.id = page.id AND r.version = page.version LIMIT 1
    ) v ON true
ORDER BY page.id, page.version, page.line
"""
_PLACES: LiteralString = """
SELECT bounds.epoch, bounds.payload_schema, bounds.since, bounds.upto, page.id, page.version, page.line
FROM bounds LEFT JOIN page ON true
ORDER BY page.id, page.version, page.line
"""
WINDOW_TEXT: LiteralString = _BOUNDS + _FOUND + _ROWS


def window(text: LiteralString = WINDOW_TEXT) -> Composed:
    """Put the names of the products' columns into a statement."""
    return SQL(text).format(
        tombstone=Identifier(str(PRODUCTS.tombstone)),
        columns=SQL(", ").join(SQL("p.{}").format(Identifier(name)) for name in PRODUCTS.columns),
    )


WINDOW = window()
"""Returns the beginning of the window between two marks: one row for each event, or a single row without one.

A mark that is not there, or is of another epoch, is NULL in every row. The columns are the epoch, the schema of the payload,
the two marks, the position, the rest of the movement, that of the reservation, whether the product is there, and its columns.

Candidates are found by the transactions that began after the first mark, up to those that the second one can contain, and by
those that were under way at the first and have ended. They are kept if the second mark contains them. With ``ORDER BY`` and
``LIMIT`` on a plain query, the planner would walk the ledger's key. The rows of a page are looked up one by one, because a join
may read the whole ledger. A search from the first mark's xmin would read again and again what one long transaction holds back.
"""

KEYS: LiteralString = _BOUNDS + _FOUND + _PLACES
"""Returns the positions after a given one in the window between two marks, with the same columns before them as ``WINDOW``."""

EVENTS = window(_BOUNDS + _GIVEN + _ROWS)
"""Returns the events at given positions of a window, as ``WINDOW`` does.

A product or reservation that has another version by now is NULL, "whether it is there" included: a later window tells it.
"""

FORGET: LiteralString = """
DELETE FROM feed_marks WHERE number IN (
    SELECT number FROM feed_marks
    WHERE taken_at < clock_timestamp() - make_interval(secs => %(age_s)s) AND number < (SELECT max(number) FROM feed_marks)
    ORDER BY number LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING number
"""
"""Removes old marks, and never the newest, from which the next one counts on."""

"""The SQL statements for reservations. The text below each describes its effect or result and the reason for its form."""

from typing import LiteralString

ENABLED: LiteralString = "SELECT payload_schema >= 3 FROM cache_generations WHERE relation = 'products'"
"""Returns whether the migration that brought reservations is finished."""

LOCK: LiteralString = """
WITH wanted AS MATERIALIZED (
    SELECT unnest(%(ids)s::text[]) COLLATE "C" AS id
    UNION SELECT product_id FROM reservation_lines WHERE reservation_id = ANY(%(reservations)s::text[])
), free AS MATERIALIZED (
    SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at,
        CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN reserved END AS reserved,
        nullif(reserved_swept, '-infinity') AS swept
    FROM products WHERE id = ANY(ARRAY(SELECT id FROM wanted)) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
SELECT false AS held, free.* FROM free
UNION ALL
SELECT true, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM products
WHERE (SELECT count(*) FROM free) < (SELECT count(*) FROM wanted)
    AND id = ANY(ARRAY(SELECT id FROM wanted)) AND id <> ALL(ARRAY(SELECT id FROM free))
"""
"""Locks as ``queries.LOCK`` does, and also the products of the lines of reservations. Those never change.

The ids are an array, so that a plan goes by them to the rows: a join could read the index from its beginning.

Whoever changes a reservation holds the row of one of its products, so whoever holds them all needs no lock on the reservation.
"""

READ: LiteralString = """
WITH now AS MATERIALIZED (
    SELECT larder_moment() AS moment, (
        SELECT payload_schema >= 3 FROM cache_generations WHERE relation = 'products'
    ) AS enabled
)
SELECT now.moment, now.enabled, r.id, r.reference, r.status, r.expires_at, r.version, r.created_at, r.updated_at, (
    SELECT json_agg(json_build_array(l.product_id, l.quantity, l.committed, l.released, l.expired) ORDER BY l.line)
    FROM reservation_lines l WHERE l.reservation_id = r.id
)
FROM now LEFT JOIN reservations r ON r.id = ANY(%(ids)s::text[])
"""
"""Returns the moment of the decisions, and the reservations with their lines; one row without any if there are none.

It is a statement after the locks: the statement that waited for a lock would read the lines as they were before its wait.
"""

READ_ENDED: LiteralString = """
WITH now AS MATERIALIZED (SELECT coalesce(nullif(%(moment)s, '')::timestamptz, larder_moment()) AS moment)
SELECT now.moment, w.id, o.reservation_id, o.line, o.open, o.expires_at, r.reference
FROM now CROSS JOIN unnest(%(ids)s::text[], %(known)s::timestamptz[], %(swept)s::timestamptz[]) AS w (id, known, swept)
LEFT JOIN LATERAL (
    SELECT l.reservation_id, l.line, l.open, l.expires_at FROM reservation_lines l
    WHERE l.product_id = w.id AND l.open > 0 AND l.expires_at > w.swept AND l.expires_at <= greatest(now.moment, w.known)
    ORDER BY l.expires_at LIMIT %(limit)s
) o ON true
LEFT JOIN reservations r ON r.id = o.reservation_id
ORDER BY w.id, o.expires_at, o.reservation_id, o.line
"""
"""Returns the open lines of products whose end has come, the oldest first, at most ``limit`` of each product.

Up to ``swept`` there are none. The condition keeps the search off index entries of lines that were closed and are not yet
vacuumed.
"""

LOCK_OTHERS: LiteralString = """
SELECT FROM reservations WHERE id = ANY(%(ids)s::text[]) ORDER BY id FOR NO KEY UPDATE
"""
"""Locks reservations whose lines other transactions may be closing, for products that this one has not locked.

It is a statement of its own before ``USE_LINES``: a statement that waited for another transaction would see the lines as they
were before, and nobody would note that the last one is closed.
"""

INSERT: LiteralString = """
WITH made AS (
    INSERT INTO reservations (id, reference, expires_at, created_at, updated_at, actor, request_id)
    SELECT id, reference, expires_at, created_at, created_at, actor, request FROM json_to_recordset(%(rows)s::json) AS c (
        id text, reference text, expires_at timestamptz, created_at timestamptz, actor text, request text
    )
)
INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, expires_at)
SELECT id, line, product, quantity, expires_at FROM json_to_recordset(%(lines)s::json) AS c (
    id text, line integer, product text, quantity bigint, expires_at timestamptz
)
"""
"""Inserts reservations and their lines."""

USE_LINES: LiteralString = """
UPDATE reservation_lines l SET
    committed = l.committed + c.committed, released = l.released + c.released, expired = l.expired + c.expired
FROM json_to_recordset(%(rows)s::json) AS c (id text, line integer, committed bigint, released bigint, expired bigint)
WHERE l.reservation_id = c.id AND l.line = c.line AND l.reservation_id = ANY(%(ids)s::text[])
"""
"""Takes units out of lines. Their products are locked."""

CHANGE: LiteralString = """
UPDATE reservations r SET
    version = r.version + c.rise, status = coalesce(c.status, r.status), expires_at = coalesce(c.expires_at, r.expires_at),
    updated_at = greatest(c.moment, r.updated_at),
    closed_at = CASE WHEN NOT EXISTS (
        SELECT FROM reservation_lines l WHERE l.reservation_id = r.id AND l.open > 0
    ) THEN coalesce(r.closed_at, greatest(c.moment, r.updated_at)) END
FROM json_to_recordset(%(rows)s::json) AS c (
    id text, rise bigint, status text, expires_at timestamptz, moment timestamptz
)
WHERE r.id = c.id AND r.id = ANY(%(ids)s::text[])
"""
"""Changes reservations after their lines.

The version rises by steps, because two transactions may close lines of one reservation, each for another product.
"""

MOVE_ENDS: LiteralString = """
UPDATE reservation_lines l SET expires_at = c.expires_at
FROM json_to_recordset(%(rows)s::json) AS c (id text, expires_at timestamptz)
WHERE l.reservation_id = c.id AND l.open > 0 AND l.reservation_id = ANY(%(ids)s::text[])
"""
"""Lets the open lines of reservations end later, as the reservations themselves."""

GET: LiteralString = """
SELECT one.enabled, r.id, r.reference, r.status, r.expires_at, r.version, r.created_at, r.updated_at, (
    SELECT json_agg(json_build_array(l.product_id, l.quantity, l.committed, l.released, l.expired) ORDER BY l.line)
    FROM reservation_lines l WHERE l.reservation_id = r.id
)
FROM (SELECT payload_schema >= 3 AS enabled FROM cache_generations WHERE relation = 'products') one
LEFT JOIN reservations r ON r.id = %(id)s
"""
"""Returns whether there are reservations in this database, and the reservation."""

LIST_BY_REFERENCE: LiteralString = """
SELECT r.id, r.reference, r.status, r.expires_at, r.version, r.created_at, r.updated_at, (
    SELECT json_agg(json_build_array(l.product_id, l.quantity, l.committed, l.released, l.expired) ORDER BY l.line)
    FROM reservation_lines l WHERE l.reservation_id = r.id
)
FROM reservations r
WHERE r.reference = %(owner)s AND (r.created_at, r.id) < (%(created_at)s::timestamptz, %(id)s::text COLLATE "C")
    AND (%(status)s::text = '' OR r.status = %(status)s::text)
ORDER BY r.created_at DESC, r.id DESC LIMIT %(limit)s
"""
"""Returns the reservations with one reference, newest first."""

LIST_BY_PRODUCT: LiteralString = """
SELECT r.id, r.reference, r.status, r.expires_at, r.version, r.created_at, r.updated_at, (
    SELECT json_agg(json_build_array(l.product_id, l.quantity, l.committed, l.released, l.expired) ORDER BY l.line)
    FROM reservation_lines l WHERE l.reservation_id = r.id
)
FROM reservations r
WHERE r.id IN (SELECT reservation_id FROM reservation_lines WHERE product_id = %(owner)s AND open > 0)
    AND (r.created_at, r.id) < (%(created_at)s::timestamptz, %(id)s::text COLLATE "C")
    AND (%(status)s::text = '' OR r.status = %(status)s::text)
ORDER BY r.created_at DESC, r.id DESC LIMIT %(limit)s
"""
"""Returns the reservations that hold units of a product, newest first."""

ENDED: LiteralString = """
SELECT o.id FROM (
    SELECT e.id, e.expires_at, sum(n.lines) OVER (ORDER BY e.expires_at, e.id) - n.lines AS before FROM (
        SELECT id, expires_at FROM reservations WHERE closed_at IS NULL AND expires_at <= (SELECT larder_moment())
        ORDER BY expires_at, id LIMIT %(limit)s
    ) e CROSS JOIN LATERAL (SELECT count(*) AS lines FROM reservation_lines l WHERE l.reservation_id = e.id) n
) o
WHERE o.before < %(lines)s ORDER BY o.expires_at, o.id
"""
"""Returns reservations whose end has come and that still hold units, the oldest end first, with a limited number of lines."""

HELD: LiteralString = """
SELECT coalesce(sum(o.open), 0)::bigint, coalesce(sum(o.open) FILTER (WHERE o.expires_at <= o.moment), 0)::bigint,
    coalesce(extract(epoch FROM max(o.moment) - min(o.expires_at) FILTER (WHERE o.expires_at <= o.moment)), 0)::float8
FROM (
    SELECT l.open, r.expires_at, (SELECT larder_moment()) AS moment
    FROM (
        SELECT id, expires_at FROM reservations WHERE closed_at IS NULL AND expires_at > '-infinity'
        ORDER BY expires_at, id LIMIT %(limit)s
    ) r
    CROSS JOIN LATERAL (SELECT open FROM reservation_lines WHERE reservation_id = r.id AND open > 0 OFFSET 0) l
    LIMIT %(lines)s
) o
"""
"""Returns how many units are held, how many of them by ended reservations, and how long the oldest of those has ended.

The oldest ends come first, up to a limit of reservations and of lines, so that a look costs the same however many are held. The
condition on the end is always true; it lets the index be read from its beginning.
"""

FORGET: LiteralString = """
WITH old AS MATERIALIZED (
    SELECT id FROM reservations WHERE closed_at < (SELECT larder_moment()) - make_interval(secs => %(age_s)s)
    ORDER BY closed_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), lines AS (
    DELETE FROM reservation_lines WHERE reservation_id = ANY(ARRAY(SELECT id FROM old))
)
DELETE FROM reservations WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING 1
"""
"""Removes the reservations that were closed longest ago, a limited number at a time."""

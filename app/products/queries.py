"""The catalogue's SQL, named. Each statement says what it gives and why it has its shape."""

from typing import LiteralString

LOAD: LiteralString = """
WITH history AS MATERIALIZED (SELECT larder_products_epoch() AS epoch)
SELECT history.epoch, wanted.id,
    p.name, p.price_cents, p.stock, p.reorder_point, p.version, p.created_at, p.updated_at, p.deleted_at
FROM history CROSS JOIN unnest(%(ids)s::text[]) AS wanted (id) LEFT JOIN products p ON p.id = wanted.id
"""
"""A row for each id asked for, tombstones and unknown ids included, with the epoch read in the same snapshot."""

LOCK: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at
FROM products WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE
"""
"""Lock rows in one order for everybody, so that two transactions cannot wait for each other."""

INSERT: LiteralString = """
INSERT INTO products (id, name, price_cents, stock, reorder_point, version)
SELECT * FROM unnest(
    %(ids)s::text[], %(names)s::text[], %(prices)s::bigint[], %(stocks)s::bigint[],
    %(reorder_points)s::bigint[], %(versions)s::bigint[]
)
ON CONFLICT (id) DO NOTHING
RETURNING id
"""
"""New rows, ids in order. Fewer ids come back than went in when another transaction was first: the caller starts again."""

UPDATE: LiteralString = """
UPDATE products p SET
    name = c.name, price_cents = c.price_cents, stock = c.stock, reorder_point = c.reorder_point, version = c.version,
    created_at = CASE WHEN p.deleted_at IS NULL THEN p.created_at ELSE statement_timestamp() END,
    deleted_at = NULL
FROM unnest(
    %(ids)s::text[], %(names)s::text[], %(prices)s::bigint[], %(stocks)s::bigint[],
    %(reorder_points)s::bigint[], %(versions)s::bigint[]
) AS c (id, name, price_cents, stock, reorder_point, version)
WHERE p.id = c.id
"""
"""New values for locked rows; a tombstone among them becomes a product again."""

BURY: LiteralString = """
UPDATE products p SET deleted_at = clock_timestamp(), stock = 0, version = c.version
FROM unnest(%(ids)s::text[], %(versions)s::bigint[]) AS c (id, version)
WHERE p.id = c.id
"""
"""Turn locked rows into tombstones."""

LIST_BY_ID: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at, '' AS name_key FROM products
WHERE deleted_at IS NULL AND id > %(after_id)s
ORDER BY id LIMIT %(limit)s
"""

LIST_BY_NAME: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at,
    lower(name) COLLATE "C" AS name_key FROM products
WHERE deleted_at IS NULL
    AND lower(name) COLLATE "C" >= lower(%(prefix)s::text)
    AND lower(name) COLLATE "C" <= lower(%(prefix)s::text) || repeat(chr(1114111), 200)
    AND starts_with(lower(name), lower(%(prefix)s::text))
    AND (lower(name) COLLATE "C", id) > (%(after_key)s::text COLLATE "C", %(after_id)s::text COLLATE "C")
ORDER BY lower(name) COLLATE "C", id LIMIT %(limit)s
"""
"""Names that begin with the prefix, case ignored. The two bounds let the index find them; ``starts_with`` decides."""

STANDING: LiteralString = """
WITH history AS MATERIALIZED (SELECT larder_products_epoch() AS epoch)
SELECT coalesce(a.announced, 0), coalesce(a.completed, 0),
    coalesce(extract(epoch FROM greatest(a.fenced_until, timestamptz 'epoch') - clock_timestamp()), -1)::float8,
    coalesce(a.epoch, ''), history.epoch
FROM history LEFT JOIN cache_audits a ON a.namespace = %(namespace)s
"""
"""How far audits have come, and whether the row speaks of the present epoch."""

ADOPT: LiteralString = """
INSERT INTO cache_audits AS a (namespace, announced, epoch, fenced_until, other_until)
SELECT %(namespace)s, 1, larder_products_epoch(), until, until
FROM (SELECT clock_timestamp() + make_interval(secs => %(max_ttl_s)s) AS until) AS worst
ON CONFLICT (namespace) DO UPDATE SET
    announced = a.announced + 1, epoch = excluded.epoch,
    fenced_until = greatest(a.fenced_until, excluded.fenced_until),
    other_until = greatest(a.other_until, excluded.other_until)
WHERE a.epoch <> excluded.epoch
"""
"""Announce, for an epoch no audit has seen, that fences of another history may live this long, on whatever server."""

ANNOUNCE: LiteralString = """
INSERT INTO cache_audits AS a (namespace, announced, server, epoch, fenced_until, other_until)
SELECT %(namespace)s, 1, %(server)s, larder_products_epoch(), until, until
FROM (SELECT clock_timestamp() + make_interval(secs => %(max_ttl_s)s) AS until) AS worst
ON CONFLICT (namespace) DO UPDATE SET
    announced = a.announced + 1, server = excluded.server, epoch = excluded.epoch,
    fenced_until = greatest(
        a.fenced_until,
        clock_timestamp() + make_interval(secs => %(ttl_s)s),
        CASE WHEN a.epoch <> excluded.epoch THEN excluded.fenced_until END
    ),
    other_until = greatest(
        a.other_until,
        CASE WHEN a.server <> excluded.server THEN a.fenced_until END,
        CASE WHEN a.epoch <> excluded.epoch THEN excluded.other_until END
    )
RETURNING announced, extract(epoch FROM greatest(other_until, timestamptz 'epoch') - clock_timestamp())::float8, epoch
"""
"""An audit's announcement; the seconds until another server's fence must have lapsed, and the epoch announced in.

A row of another epoch, or none, tells nothing of the fences that may live, nor of the servers that they name: a restore may
have brought it back. Then the worst is assumed: the largest TTL, on any server.
"""

COMPLETE: LiteralString = """
UPDATE cache_audits SET completed = greatest(completed, %(cycle)s)
WHERE namespace = %(namespace)s AND epoch = %(epoch)s AND announced >= %(cycle)s
"""
"""A cycle is finished, if the row still knows it: one that a restore brought back has numbers of another history."""

SNAPSHOT: LiteralString = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, larder_products_epoch()"
"""Taken first in a REPEATABLE READ transaction: fixes its snapshot."""

CHANGES: LiteralString = """
DECLARE changes NO SCROLL CURSOR FOR
SELECT id, version FROM products WHERE changed_xid >= %(xid)s::text::xid8
"""
"""What committed since the watermark, by id and version only: it may be many rows."""

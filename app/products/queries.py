"""The catalogue's SQL, named. Each statement says what it gives and why it has its shape."""

from typing import LiteralString

LOAD: LiteralString = """
WITH history AS MATERIALIZED (SELECT larder_epoch('products', %(knows)s::integer) AS epoch)
SELECT history.epoch, wanted.id,
    p.name, p.price_cents, p.stock, p.reorder_point, p.version, p.created_at, p.updated_at, p.deleted_at
FROM history CROSS JOIN unnest(%(ids)s::text[]) AS wanted (id) LEFT JOIN products p ON p.id = wanted.id
"""
"""A row for each id asked for, tombstones and unknown ids included, with the epoch read in the same snapshot."""

LOCK_TIMEOUT: LiteralString = "SELECT set_config('lock_timeout', %(timeout)s, true)"
"""How long this transaction waits for a lock, in milliseconds."""

WAIT: LiteralString = "SELECT FROM products WHERE id = ANY(%(ids)s::text[]) ORDER BY id FOR NO KEY UPDATE"
"""Lock rows that somebody else held a moment ago, in one order for everybody. Before ``LOCK``, so that nothing is held yet."""

LOCK: LiteralString = """
WITH free AS MATERIALIZED (
    SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at
    FROM products WHERE id = ANY(%(ids)s::text[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
SELECT false AS held, free.* FROM free
UNION ALL
SELECT true, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM products
WHERE (SELECT count(*) FROM free) < cardinality(%(ids)s::text[])
    AND id = ANY(%(ids)s::text[]) AND id <> ALL(ARRAY(SELECT id FROM free))
"""
"""Lock the rows that are free, and name those that somebody else holds; nobody waits. An unknown id gives no row.

The ids must differ from each other. The second part is run only when something is missing.
"""

NEWEST_MOVEMENTS: LiteralString = """
SELECT wanted.id, coalesce((SELECT max(version) FROM stock_movements m WHERE m.product_id = wanted.id), 0)
FROM unnest(%(ids)s::text[]) AS wanted (id)
"""
"""The newest version that the ledger has of each product: it may be ahead of a product that was restored alone."""

INSERT: LiteralString = """
INSERT INTO products (id, name, price_cents, stock, reorder_point, version, deleted_at)
SELECT id, name, price_cents, stock, reorder_point, version, CASE WHEN gone THEN clock_timestamp() END FROM unnest(
    %(ids)s::text[], %(names)s::text[], %(prices)s::bigint[], %(stocks)s::bigint[],
    %(reorder_points)s::bigint[], %(versions)s::bigint[], %(gone)s::boolean[]
) AS c (id, name, price_cents, stock, reorder_point, version, gone)
ON CONFLICT (id) DO NOTHING
RETURNING id
"""
"""New rows, ids in order. Fewer ids come back than went in when another transaction was first: the caller starts again."""

UPDATE: LiteralString = """
UPDATE products p SET
    name = c.name, price_cents = c.price, stock = c.stock, reorder_point = c.reorder_point, version = c.version,
    created_at = CASE WHEN c.created THEN statement_timestamp() ELSE p.created_at END,
    deleted_at = NULL
FROM json_to_recordset(%(rows)s::json) AS c (
    id text, name text, price bigint, stock bigint, reorder_point bigint, version bigint, created boolean
)
WHERE p.id = c.id AND p.id = ANY(%(ids)s::text[])
"""
"""New values for locked rows; ``created`` are products again that were deleted, before or in this transaction.

As one text of JSON, here and for the ledger: the driver would look at each value of seven arrays. The ids besides, so that the
rows are found by key even by a plan that was made while the table was empty.
"""

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

LIST_BELOW_REORDER_POINT: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at, '' AS name_key FROM products
WHERE deleted_at IS NULL AND stock < reorder_point AND id > %(after_id)s
    AND (%(prefix)s::text = '' OR starts_with(lower(name), lower(%(prefix)s::text)))
ORDER BY id LIMIT %(limit)s
"""
"""What to order again. A prefix only thins it out: the order stays by id."""

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

EPOCH: LiteralString = "SELECT larder_epoch('products', %(knows)s::integer)"
"""The present epoch. Raises on a standby, during a restore, and for a release that does not know the payload's schema."""

STANDING: LiteralString = """
WITH history AS MATERIALIZED (SELECT larder_epoch('products', %(knows)s::integer) AS epoch)
SELECT history.epoch, a.namespace, a.announced, a.completed,
    extract(epoch FROM greatest(a.fenced_until, timestamptz 'epoch') - clock_timestamp())::float8
FROM history LEFT JOIN cache_audits a ON a.relation = 'products' AND a.epoch = history.epoch
"""
"""The present epoch, and how far audits have come in each namespace that was announced in it.

Rows of another epoch are left out. The first cycle of an epoch waits until no fence can be live anywhere, so once a row has
this epoch the others cannot matter.
"""

ADOPT: LiteralString = """
INSERT INTO cache_audits AS a (relation, namespace, announced, epoch, fenced_until, other_until)
SELECT 'products', %(namespace)s, 1, worst.epoch, worst.until, worst.until
FROM (
    SELECT larder_epoch('products', %(knows)s::integer) AS epoch,
        clock_timestamp() + make_interval(secs => %(max_ttl_s)s) AS until
) AS worst
WHERE NOT EXISTS (SELECT FROM cache_audits o WHERE o.relation = 'products' AND o.epoch = worst.epoch)
ON CONFLICT (relation, namespace, partition) DO UPDATE SET
    announced = a.announced + 1, epoch = excluded.epoch,
    fenced_until = greatest(a.fenced_until, excluded.fenced_until),
    other_until = greatest(a.other_until, excluded.other_until)
WHERE a.epoch <> excluded.epoch
"""
"""Announce, for an epoch no audit has seen, that fences of another history may live this long, on whatever server."""

ANNOUNCE: LiteralString = """
WITH history AS MATERIALIZED (
    SELECT larder_epoch('products', %(knows)s::integer) AS epoch, clock_timestamp() AS moment,
        make_interval(secs => %(margin_s)s) AS margin
), rivals AS MATERIALIZED (
    SELECT o.namespace FROM cache_audits o, history
    WHERE o.relation = 'products' AND o.namespace <> %(namespace)s AND o.fenced_until + history.margin > history.moment
    LIMIT 1
), start AS MATERIALIZED (
    SELECT history.epoch, history.moment + make_interval(secs => %(ttl_s)s) AS until,
        CASE WHEN EXISTS (SELECT FROM cache_audits o WHERE o.relation = 'products' AND o.epoch = history.epoch)
            THEN timestamptz '-infinity' ELSE history.moment + make_interval(secs => %(max_ttl_s)s) END AS worst
    FROM history
), said AS (
    INSERT INTO cache_audits AS a (relation, namespace, announced, server, epoch, fenced_until, other_until)
    SELECT 'products', %(namespace)s, 1, %(server)s, start.epoch, greatest(start.until, start.worst), start.worst
    FROM start WHERE NOT EXISTS (SELECT FROM rivals)
    ON CONFLICT (relation, namespace, partition) DO UPDATE SET
        announced = a.announced + 1, server = excluded.server, epoch = excluded.epoch,
        fenced_until = greatest(a.fenced_until, excluded.fenced_until),
        other_until = greatest(a.other_until, excluded.other_until)
    WHERE NOT a.barred AND (
        a.server = excluded.server OR a.epoch <> excluded.epoch
        OR a.fenced_until + make_interval(secs => %(margin_s)s) <= clock_timestamp()
    )
    RETURNING announced, extract(epoch FROM greatest(other_until, timestamptz 'epoch') - clock_timestamp())::float8 AS other_s
)
SELECT history.epoch, said.announced, said.other_s, (SELECT namespace FROM rivals), a.barred, a.server
FROM history LEFT JOIN said ON true LEFT JOIN cache_audits a ON a.relation = 'products' AND a.namespace = %(namespace)s
"""
"""An audit's announcement, or who has the trust instead.

While no row has the present epoch, nothing is known of the fences that may live, nor of the servers that they name: a restore
may have brought the rows back. Then the worst is assumed: the largest TTL, on any server. The columns of ``a`` show the row as
it was before.
"""

COMPLETE: LiteralString = """
UPDATE cache_audits SET completed = greatest(completed, %(cycle)s)
WHERE relation = 'products' AND namespace = %(namespace)s AND epoch = %(epoch)s AND announced >= %(cycle)s
"""
"""A cycle is finished, if the row still knows it: one that a restore brought back has numbers of another history."""

SNAPSHOT: LiteralString = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text, larder_epoch('products', %(knows)s::integer), coalesce((
    SELECT namespace FROM cache_audits
    WHERE relation = 'products' AND namespace <> %(namespace)s
        AND fenced_until + make_interval(secs => %(margin_s)s) > clock_timestamp()
    LIMIT 1
), '')
"""
"""Taken first in a REPEATABLE READ transaction: fixes its snapshot, and looks for another namespace that may be trusted."""

CHANGES: LiteralString = """
DECLARE changes NO SCROLL CURSOR FOR
SELECT id, version FROM products WHERE changed_xid >= %(xid)s::text::xid8
"""
"""What committed since the watermark, by id and version only: it may be many rows."""

RECORD: LiteralString = """
INSERT INTO stock_movements (
    product_id, version, line, delta, stock_after, reason, reference, actor, request_id, idempotency_key
)
SELECT * FROM json_to_recordset(%(rows)s::json) AS c (
    id text, version bigint, line integer, delta bigint, stock bigint, reason text, reference text, actor text, request text,
    key text
)
ON CONFLICT DO NOTHING
RETURNING created_at
"""
"""Ledger entries, before the rows they speak of change: the trigger on those then finds the whole change recorded.

Fewer come back than went in when another transaction created one of the products first: no row was there to be locked.
"""

MOVEMENTS: LiteralString = """
SELECT product_id, version, line, delta, stock_after, reason, reference, created_at FROM stock_movements
WHERE product_id = %(product_id)s AND (version, line) < (%(version)s::bigint, %(line)s::int)
ORDER BY version DESC, line DESC LIMIT %(limit)s
"""
"""One product's ledger, newest first."""

MOVEMENTS_BY_REFERENCE: LiteralString = """
SELECT product_id, version, line, delta, stock_after, reason, reference, created_at FROM stock_movements
WHERE reference = %(reference)s
    AND (created_at, product_id, version, line)
        < (%(created_at)s::timestamptz, %(product_id)s::text COLLATE "C", %(version)s::bigint, %(line)s::int)
ORDER BY created_at DESC, product_id DESC, version DESC, line DESC LIMIT %(limit)s
"""
"""What happened under one reference, newest first."""

HAS_LEDGER: LiteralString = "SELECT FROM stock_movements WHERE product_id = %(product_id)s LIMIT 1"

LOCK_KEYS: LiteralString = """
SELECT caller, key, pg_try_advisory_xact_lock(hashtextextended(caller || chr(31) || key, 0))
FROM unnest(%(callers)s::text[], %(keys)s::text[]) AS asked (caller, key)
"""
"""Take the locks of idempotency keys without waiting: whoever does not get one asks again later."""

KEPT: LiteralString = """
SELECT k.caller, k.key, k.request_hash, k.status, k.body, k.etag, k.location, k.product_ids
FROM unnest(%(callers)s::text[], %(keys)s::text[]) AS asked (caller, key)
JOIN idempotency_records k ON k.caller = asked.caller AND k.key = asked.key
"""
"""Answers kept for these keys. A statement of its own after the locks: its snapshot sees what their last holders committed."""

KEEP: LiteralString = """
INSERT INTO idempotency_records (caller, key, request_hash, status, body, etag, location, product_ids)
VALUES (%(caller)s, %(key)s, %(request_hash)s, %(status)s, %(body)s, %(etag)s, %(location)s, %(product_ids)s)
"""

FORGET: LiteralString = """
DELETE FROM idempotency_records WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_records
    WHERE created_at < statement_timestamp() - make_interval(secs => %(age_s)s)
    ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
RETURNING 1
"""
"""Remove the oldest kept answers, a bounded number at a time. By place: a locked row stays where it is."""

"""The SQL statements for products. The text below each describes its effect or result and the reason for its form."""

from typing import LiteralString

READ_BACK: LiteralString = """
WITH history AS MATERIALIZED (
    SELECT epoch FROM larder_epoch('products', %(knows)s::integer) AS epoch
    WHERE larder_require(%(epoch)s::text IN ('', epoch), 'another epoch has begun')
)
SELECT history.epoch, wanted.id,
    p.name, p.price_cents, p.stock, p.reorder_point, p.version, p.created_at, p.updated_at, p.deleted_at,
    CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN p.reserved END AS reserved
FROM history CROSS JOIN unnest(%(ids)s::text[]) AS wanted (id) LEFT JOIN products p ON p.id = wanted.id
"""
"""Returns a row for each id, also for tombstones and unknown ids, with the epoch read in the same snapshot.

A transaction runs it after its changes. If ``epoch`` is not empty, it fails in any other epoch, and the
transaction with it.
"""

LOCK_TIMEOUT: LiteralString = "SELECT set_config('lock_timeout', %(timeout)s, true)"
"""Sets how long this transaction waits for a lock, in milliseconds."""

WAIT: LiteralString = "SELECT FROM products WHERE id = ANY(%(ids)s::text[]) ORDER BY id FOR NO KEY UPDATE"
"""Locks rows that somebody else held a moment ago, in one fixed order. It runs before ``LOCK``, so nothing is held yet."""

LOCK: LiteralString = """
WITH free AS MATERIALIZED (
    SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at,
        CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN reserved END AS reserved,
        nullif(reserved_swept, '-infinity') AS swept
    FROM products WHERE id = ANY(%(ids)s::text[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
SELECT false AS held, free.* FROM free
UNION ALL
SELECT true, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM products
WHERE (SELECT count(*) FROM free) < cardinality(%(ids)s::text[])
    AND id = ANY(%(ids)s::text[]) AND id <> ALL(ARRAY(SELECT id FROM free))
"""
"""Locks the rows that are free, and returns those that somebody else holds, without waiting. An unknown id gives no row.

The ids must differ from each other. The second part runs only when a row is missing in the first.
"""

NEWEST_MOVEMENTS: LiteralString = """
SELECT wanted.id, coalesce((SELECT max(version) FROM stock_movements m WHERE m.product_id = wanted.id), 0)
FROM unnest(%(ids)s::text[]) AS wanted (id)
"""
"""Returns the newest version in the ledger of each product. It is above that of a product that was restored alone."""

INSERT: LiteralString = """
WITH made AS (
    INSERT INTO products (id, name, price_cents, stock, reorder_point, version, deleted_at, reserved)
    SELECT id, name, price_cents, stock, reorder_point, version, CASE WHEN gone THEN clock_timestamp() END, reserved
    FROM unnest(
        %(ids)s::text[], %(names)s::text[], %(prices)s::bigint[], %(stocks)s::bigint[],
        %(reorder_points)s::bigint[], %(versions)s::bigint[], %(gone)s::boolean[], %(reserved)s::bigint[]
    ) AS c (id, name, price_cents, stock, reorder_point, version, gone, reserved)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
SELECT larder_require(count(*) = cardinality(%(ids)s::text[]), 'another transaction created a product first') FROM made
"""
"""Inserts new rows in the order of their ids. If another transaction inserted one first, it fails, and with it this one."""

UPDATE: LiteralString = """
UPDATE products p SET
    name = c.name, price_cents = c.price, stock = c.stock, reorder_point = c.reorder_point, version = c.version,
    created_at = CASE WHEN c.created THEN statement_timestamp() ELSE p.created_at END,
    deleted_at = NULL, reserved = c.reserved, reserved_swept = coalesce(c.swept, p.reserved_swept)
FROM json_to_recordset(%(rows)s::json) AS c (
    id text, name text, price bigint, stock bigint, reorder_point bigint, version bigint, created boolean, reserved bigint,
    swept timestamptz
)
WHERE p.id = c.id AND p.id = ANY(%(ids)s::text[])
"""
"""Sets new values in locked rows. Rows with ``created`` were deleted, before or in this transaction, and are created again.

The values are one JSON text, here and for the ledger, because the driver would inspect each value of seven arrays. The ids are
sent separately, so that even a plan that was made while the table was empty finds the rows by key.
"""

BURY: LiteralString = """
UPDATE products p SET deleted_at = clock_timestamp(), stock = 0, reserved = 0, version = c.version
FROM unnest(%(ids)s::text[], %(versions)s::bigint[]) AS c (id, version)
WHERE p.id = c.id
"""
"""Turns locked rows into tombstones."""

LIST_BY_ID: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at,
    CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN reserved END AS reserved,
    '' AS name_key
FROM products
WHERE deleted_at IS NULL AND id > %(after_id)s
ORDER BY id LIMIT %(limit)s
"""

LIST_BELOW_REORDER_POINT: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at,
    CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN reserved END AS reserved,
    '' AS name_key
FROM products
WHERE deleted_at IS NULL AND stock < reorder_point AND id > %(after_id)s
    AND (%(prefix)s::text = '' OR starts_with(lower(name), lower(%(prefix)s::text)))
ORDER BY id LIMIT %(limit)s
"""
"""Returns products below their reorder point. A prefix filters them; the order is by id in any case."""

LIST_UNCOVERED: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at,
    CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN reserved END AS reserved,
    '' AS name_key
FROM products
WHERE deleted_at IS NULL AND reserved > stock AND id > %(after_id)s
    AND (%(prefix)s::text = '' OR starts_with(lower(name), lower(%(prefix)s::text)))
ORDER BY id LIMIT %(limit)s
"""
"""Returns products of which more is held than is there. A prefix filters them; the order is by id in any case."""

LIST_BY_NAME: LiteralString = """
SELECT id, name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at,
    CASE WHEN (SELECT payload_schema FROM cache_generations WHERE relation = 'products') >= 3 THEN reserved END AS reserved,
    lower(name) COLLATE "C" AS name_key
FROM products
WHERE deleted_at IS NULL
    AND lower(name) COLLATE "C" >= lower(%(prefix)s::text)
    AND lower(name) COLLATE "C" <= lower(%(prefix)s::text) || repeat(chr(1114111), 200)
    AND starts_with(lower(name), lower(%(prefix)s::text))
    AND (lower(name) COLLATE "C", id) > (%(after_key)s::text COLLATE "C", %(after_id)s::text COLLATE "C")
ORDER BY lower(name) COLLATE "C", id LIMIT %(limit)s
"""
"""Returns products whose names begin with the prefix, ignoring case.

The two bounds let the index find them, and ``starts_with`` decides.
"""

RECORD: LiteralString = """
WITH made AS (
    INSERT INTO stock_movements (
        product_id, version, line, delta, stock_after, reason, reference, actor, request_id, idempotency_key,
        reserved_delta, reserved_after, reservation_id
    )
    SELECT * FROM json_to_recordset(%(rows)s::json) AS c (
        id text, version bigint, line integer, delta bigint, stock bigint, reason text, reference text, actor text,
        request text, key text, reserved_delta bigint, reserved bigint, reservation text
    )
    ON CONFLICT DO NOTHING
    RETURNING created_at
)
SELECT max(created_at), larder_require(
    count(*) = %(count)s::bigint, 'another transaction created a product first, or the ledger is ahead of its product'
) FROM made
"""
"""Inserts ledger entries; returns their time. It runs before the rows change, so that the trigger on them finds them recorded.

If one of the ``count`` entries is there already, it fails, and with it the transaction: another one created the product, which
had no row to lock, or the product was restored without its ledger.
"""

MOVEMENTS: LiteralString = """
SELECT product_id, version, line, delta, stock_after, reason, reference, created_at,
    reserved_delta, reserved_after, reservation_id
FROM stock_movements
WHERE product_id = %(product_id)s AND (version, line) < (%(version)s::bigint, %(line)s::int)
ORDER BY version DESC, line DESC LIMIT %(limit)s
"""
"""Returns one product's ledger, newest first."""

MOVEMENTS_BY_REFERENCE: LiteralString = """
SELECT product_id, version, line, delta, stock_after, reason, reference, created_at,
    reserved_delta, reserved_after, reservation_id
FROM stock_movements
WHERE reference = %(reference)s
    AND (created_at, product_id, version, line)
        < (%(created_at)s::timestamptz, %(product_id)s::text COLLATE "C", %(version)s::bigint, %(line)s::int)
ORDER BY created_at DESC, product_id DESC, version DESC, line DESC LIMIT %(limit)s
"""
"""Returns the movements with one reference, newest first."""

LATEST_MOVEMENTS: LiteralString = """
WITH changed AS MATERIALIZED (
    SELECT id FROM products WHERE changed_xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY changed_xid DESC LIMIT 200
)
SELECT m.* FROM changed CROSS JOIN LATERAL (
    SELECT product_id, version, line, delta, stock_after, reason, reference, created_at,
    reserved_delta, reserved_after, reservation_id
FROM stock_movements
    WHERE product_id = changed.id ORDER BY version DESC, line DESC LIMIT %(limit)s
) m
ORDER BY created_at DESC, product_id DESC, version DESC, line DESC LIMIT %(limit)s
"""
"""Returns the newest movements of the 200 products that were changed last, newest first.

The ledger has no index by time alone, which each movement would have to pay for. A movement is therefore left out if 200 other
products were changed after it. The condition on ``changed_xid`` is true of every row that is seen; by it the index is
entered at its newest end.
"""

HAS_LEDGER: LiteralString = "SELECT 1 FROM stock_movements WHERE product_id = %(product_id)s LIMIT 1"

LOCK_KEYS: LiteralString = """
SELECT caller, key, pg_try_advisory_xact_lock(hashtextextended(caller || chr(31) || key, 0))
FROM unnest(%(callers)s::text[], %(keys)s::text[]) AS asked (caller, key)
"""
"""Takes the locks of idempotency keys without waiting. A request that does not get its lock tries again later."""

STORED_ANSWERS: LiteralString = """
SELECT k.caller, k.key, k.request_hash, k.status, k.body, k.etag, k.location, k.product_ids
FROM unnest(%(callers)s::text[], %(keys)s::text[]) AS asked (caller, key)
JOIN idempotency_records k ON k.caller = asked.caller AND k.key = asked.key
"""
"""Returns the answers stored for these keys.

It is a separate statement after ``LOCK_KEYS``, so that its snapshot sees what the last holders of the locks committed.
"""

STORE_ANSWER: LiteralString = """
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
"""Removes the oldest stored answers, a limited number at a time. Rows are found by ``ctid``; a locked row does not move."""

"""The SQL statements about the buckets that a database holds, and by which buckets move to another database."""

from typing import LiteralString

READ: LiteralString = "SELECT held, moving FROM pair_buckets"
"""Returns the buckets that are here, and those that move."""

STATE: LiteralString = "SELECT held, moving, move FROM pair_buckets"
"""Returns the same with the id of the move."""

LOCKED: LiteralString = "SELECT held, moving, move FROM pair_buckets FOR UPDATE"

BEGIN: LiteralString = "SELECT set_config('lock_timeout', '2s', true), set_config('synchronous_commit', 'on', true)"
"""Sets how long a step of a move waits for a lock, and that its COMMIT is on disk before the next step begins."""

IS_THERE: LiteralString = "SELECT to_regclass('pair_buckets') IS NOT NULL"

HOLD: LiteralString = """
INSERT INTO pair_buckets (held) VALUES (%(held)s)
ON CONFLICT (singleton) DO UPDATE SET held = excluded.held, moving = '', move = ''
"""

IN_USE: LiteralString = """
SELECT (SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'larder'),
    EXISTS (SELECT FROM cache_audits WHERE fenced_until > clock_timestamp())
"""
"""Returns how many connections of Larder there are besides this one, and whether an audit says that a cache is trusted."""

PRODUCTS: LiteralString = "SELECT id FROM products WHERE deleted_at IS NULL AND id > %(after)s ORDER BY id LIMIT %(limit)s"

RESERVATIONS: LiteralString = (
    "SELECT id FROM reservations WHERE closed_at IS NULL AND id > %(after)s ORDER BY id LIMIT %(limit)s"
)

LOCK_MOVES: LiteralString = """
SELECT pg_try_advisory_xact_lock(hashtext('larder buckets move')),
    set_config('idle_in_transaction_session_timeout', '0', true)
"""
"""Returns whether no other move uses the database, until the transaction ends."""

ACCEPT_LOCK: LiteralString = "LOCK TABLE accepted_writes IN ROW EXCLUSIVE MODE"
"""Takes the lock that an INSERT takes, before the buckets are read. Nobody waits for it, and it is gone at COMMIT."""

WRITERS: LiteralString = """
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND relation IN (to_regclass('products'), to_regclass('accepted_writes'))
    AND mode IN ('RowShareLock', 'RowExclusiveLock') AND granted AND pid IS DISTINCT FROM pg_backend_pid()
"""
"""Returns the transactions that have locked rows of products or accepted writes, or have changed some.

A lock of the tables would hold up all writers while it waits for these.
"""

SAY: LiteralString = "UPDATE pair_buckets SET held = %(held)s, moving = %(moving)s, move = %(move)s"

HELD_PRODUCTS: LiteralString = """
SELECT DISTINCT l.product_id FROM reservations r JOIN reservation_lines l ON l.reservation_id = r.id WHERE r.closed_at IS NULL
"""
"""Returns the products of open reservations, also of lines that are closed: a command on the reservation locks them all."""

WAITING: LiteralString = "SELECT seq, product_ids FROM accepted_writes WHERE failed_at IS NULL ORDER BY seq"

WAITING_PRODUCTS: LiteralString = "SELECT DISTINCT unnest(product_ids) FROM accepted_writes WHERE failed_at IS NULL"

RECORD_LEAVING: LiteralString = """
INSERT INTO stock_movements (product_id, version, line, delta, stock_after, reason, reference, reserved_delta, reserved_after)
SELECT id, version + 1, 0, -stock, 0, 'deletion', %(reference)s, -reserved, 0 FROM products
WHERE id = ANY(%(ids)s::text[]) AND deleted_at IS NULL
"""

LEAVE: LiteralString = """
UPDATE products SET deleted_at = clock_timestamp(), stock = 0, reserved = 0, version = version + 1
WHERE id = ANY(%(ids)s::text[]) AND deleted_at IS NULL
"""
"""Turns products into tombstones, whose names and prices stay. It runs after ``RECORD_LEAVING``, for the ledger's trigger."""

CLOSE_LINES: LiteralString = "SELECT larder_close_lines(id) FROM products WHERE id = ANY(%(ids)s::text[]) AND reserved > 0"
"""Gives back the units of products that reservations hold."""

FENCED_S: LiteralString = """
SELECT coalesce(max(extract(epoch FROM greatest(fenced_until, clock_timestamp()) - clock_timestamp())), 0)::float8
FROM cache_audits
"""
"""Returns how long a fence may live that was announced before."""

ROWS: LiteralString = """
SELECT p.id, jsonb_build_object('id', p.id, 'name', p.name, 'price_cents', p.price_cents, 'reorder_point', p.reorder_point,
    'version', p.version, 'created_at', p.created_at, 'left', -m.delta)::text
FROM products p LEFT JOIN stock_movements m
    ON m.product_id = p.id AND m.version = p.version AND m.reason = 'deletion' AND m.reference = %(reference)s
WHERE p.deleted_at IS NOT NULL AND p.id > %(after)s ORDER BY p.id LIMIT %(limit)s
"""
"""Returns tombstones; ``left`` is the stock with which one left, and null if the product was deleted."""

OLDER: LiteralString = """
SELECT p.id FROM json_to_recordset(%(rows)s::json) AS c (id text, version bigint, "left" bigint)
JOIN products p ON p.id = c.id
WHERE p.deleted_at IS NULL AND p.version < CASE WHEN c."left" IS NULL THEN c.version ELSE c.version + 1 END
"""
"""Returns living products of the target that are older than what arrives."""

OTHER_ANSWERS: LiteralString = """
SELECT k.key FROM json_populate_recordset(NULL::idempotency_records, %(rows)s::json) AS c
JOIN idempotency_records k ON k.caller = c.caller AND k.key = c.key
WHERE (k.request_hash, k.body) IS DISTINCT FROM (c.request_hash, c.body)
"""
"""Returns the keys under which the target keeps the answer to another request."""

ENTER: LiteralString = """
INSERT INTO products (id, name, price_cents, stock, reorder_point, version, created_at, deleted_at)
SELECT c.id, c.name, c.price_cents, coalesce(c."left", 0), c.reorder_point,
    CASE WHEN c."left" IS NULL THEN c.version ELSE c.version + 1 END, c.created_at,
    CASE WHEN c."left" IS NULL THEN clock_timestamp() END
FROM json_to_recordset(%(rows)s::json) AS c (
    id text, name text, price_cents bigint, reorder_point bigint, version bigint, created_at timestamptz, "left" bigint
)
WHERE NOT EXISTS (SELECT FROM products p WHERE p.id = c.id AND p.deleted_at IS NULL)
ON CONFLICT (id) DO UPDATE SET version = greatest(products.version, excluded.version)
"""
"""Creates what left the other database, and tombstones of what was deleted there, so that versions go on.

A product that is there already is left as it is: an earlier try has brought it.
"""

RECORD_ENTERING: LiteralString = """
INSERT INTO stock_movements (product_id, version, line, delta, stock_after, reason, reference)
SELECT c.id, c.version + 1, 0, c."left", c."left", 'opening', %(reference)s
FROM json_to_recordset(%(rows)s::json) AS c (id text, version bigint, "left" bigint) WHERE c."left" IS NOT NULL
ON CONFLICT DO NOTHING
"""

LEDGER: LiteralString = "SELECT to_jsonb(m)::text FROM stock_movements m WHERE product_id = ANY(%(ids)s::text[])"
ADD_LEDGER: LiteralString = """
INSERT INTO stock_movements (
    product_id, version, line, delta, stock_after, reason, reference, created_at, actor, request_id, idempotency_key,
    reserved_delta, reserved_after, reservation_id
)
SELECT product_id, version, line, delta, stock_after, reason, reference, created_at, actor, request_id, idempotency_key,
    reserved_delta, reserved_after, reservation_id
FROM json_populate_recordset(NULL::stock_movements, %(rows)s::json) ON CONFLICT DO NOTHING
"""

ANSWERS: LiteralString = """
SELECT to_jsonb(k)::text, product_ids, caller, key FROM idempotency_records k
WHERE (caller, key) > (%(caller)s, %(key)s) ORDER BY caller, key LIMIT %(limit)s
"""
ADD_ANSWERS: LiteralString = """
INSERT INTO idempotency_records (
    caller, key, request_hash, status, body, etag, location, product_ids, created_at
)
SELECT caller, key, request_hash, status, body, etag, location, product_ids, created_at
FROM json_populate_recordset(NULL::idempotency_records, %(rows)s::json) ON CONFLICT DO NOTHING
"""

CLOSED: LiteralString = """
SELECT to_jsonb(r)::text, id FROM reservations r WHERE closed_at IS NOT NULL AND id > %(after)s ORDER BY id LIMIT %(limit)s
"""
ADD_CLOSED: LiteralString = """
INSERT INTO reservations (
    id, reference, status, expires_at, version, created_at, updated_at, closed_at, actor, request_id
)
SELECT id, reference, status, expires_at, version, created_at, updated_at, closed_at, actor, request_id
FROM json_populate_recordset(NULL::reservations, %(rows)s::json) ON CONFLICT DO NOTHING
"""

LINES: LiteralString = "SELECT to_jsonb(l)::text FROM reservation_lines l WHERE reservation_id = ANY(%(ids)s::text[])"
ADD_LINES: LiteralString = """
INSERT INTO reservation_lines (
    reservation_id, line, product_id, quantity, committed, released, expired, expires_at
)
SELECT reservation_id, line, product_id, quantity, committed, released, expired, expires_at
FROM json_populate_recordset(NULL::reservation_lines, %(rows)s::json) ON CONFLICT DO NOTHING
"""

"""A database of 1,000,000 products, filled in seconds with SQL, for tests of what is visible only at that size.

Ids are in no order, as clients choose them, so that neighbours in an index are not neighbours in the table. An eighth of the
names have the same beginning. One product in a hundred is below its reorder point, one in two hundred is a tombstone. Each has
an opening entry. Every fifth has a sale, five to an order; every twentieth has a correction; one was sold 50,000 times. The
ledger's sums are the stocks. A movement has its product's transaction. The feed has two marks, and the last 200 transactions
lie between them. There are 200,000 reservations with two lines each, of which one in ten is open, and one in a hundred has
ended; only the tables of reservations know of them.
"""

from typing import LiteralString

import psycopg

HOT = "p0000001"
"""The product that was sold 50,000 times."""
BUSY = "order-busy"
"""The reference of half of these sales."""


def ids(count: int) -> list[str]:
    """Return the ids of different products, far from one another."""
    return [f"p{1 + number * 397 % 1_000_000:07}" for number in range(count)]


# Ids of transactions are used up, so that the rows can have been changed in different ones, long ago.
_HISTORY: LiteralString = "DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"

# Nothing here has to survive a crash, and the plans are the same: without the log, filling takes less time.
_UNLOGGED: LiteralString = """
DO $$ DECLARE name text; BEGIN
    FOREACH name IN ARRAY ARRAY['reservation_lines', 'reservations', 'products', 'stock_movements', 'idempotency_records'] LOOP
        EXECUTE format('ALTER TABLE %I SET UNLOGGED', name);
    END LOOP;
END $$
"""

# What would check every row, and what would be kept sorted row by row, comes back afterwards: a third of the time.
_OFF: LiteralString = """
CREATE TEMP TABLE filled AS
SELECT unnest(ARRAY['products', 'stock_movements', 'idempotency_records'])::regclass AS oid;
CREATE TEMP TABLE removed AS
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS away,
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(c.oid))
        || CASE contype WHEN 'c' THEN ' NOT VALID' ELSE '' END AS again
FROM pg_constraint c JOIN filled ON filled.oid = conrelid WHERE contype IN ('c', 'p')
UNION ALL
SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index JOIN filled ON filled.oid = indrelid WHERE NOT indisprimary
UNION ALL
SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname),
    format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', tgrelid::regclass, tgname)
FROM pg_trigger JOIN filled ON filled.oid = tgrelid WHERE tgenabled = 'A';
DO $$ DECLARE r record; BEGIN FOR r IN TABLE removed LOOP EXECUTE r.away; END LOOP; END $$;
"""
_ON: LiteralString = """
DO $$ DECLARE r record; BEGIN FOR r IN TABLE removed LOOP EXECUTE r.again; END LOOP; END $$;
"""

# 1,000,003 is a prime: the numbers run through all ids once. Every fifth row has version 2, the hot one 50,001.
_PRODUCTS: LiteralString = """
INSERT INTO products (id, name, price_cents, stock, reorder_point, version, changed_xid, created_at, updated_at, deleted_at)
SELECT 'p' || lpad(n::text, 7, '0'),
    (ARRAY['Blue', 'red', 'Green', 'Tall', 'small', 'Café', 'Old', 'Iron'])[1 + n % 8] || ' '
        || (ARRAY['mug', 'Jug', 'tray', 'lamp', 'vase'])[1 + n / 8 % 5] || ' ' || n,
    n % 10000,
    CASE WHEN n % 200 = 7 THEN 0 ELSE 100 + n % 50 END,
    CASE WHEN n % 100 = 33 THEN 1000 ELSE n % 3 * 10 END,
    CASE WHEN n = 1 THEN 50001 WHEN n % 5 = 0 OR n % 20 = 7 THEN 2 ELSE 1 END,
    (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 20000 + n * 7919 % 20000)::text::xid8,
    at, at, CASE WHEN n % 200 = 7 THEN at END
FROM (
    SELECT i * 7919::bigint % 1000003 AS n, statement_timestamp() - make_interval(secs => 1000010 - i) AS at
    FROM generate_series(1, 1000002) AS i
) AS numbered WHERE n BETWEEN 1 AND 1000000
"""
# The 50,000 sales lie scattered among the others, as sales do.
_MOVEMENTS: LiteralString = """
INSERT INTO stock_movements (product_id, version, line, delta, stock_after, reason, reference, created_at, xid)
SELECT m.product_id, m.version, 0, m.delta, m.stock_after, m.reason, m.reference, m.created_at, p.changed_xid
FROM products p CROSS JOIN LATERAL (
    SELECT substr(id, 2)::int AS n, CASE WHEN deleted_at IS NULL THEN stock + version - 1 ELSE 3 END AS opening
) AS o CROSS JOIN LATERAL (
    SELECT id AS product_id, 1 AS version, opening AS delta, opening AS stock_after,
        'opening' AS reason, NULL AS reference, created_at
    UNION ALL SELECT id, 2, stock - opening, stock, CASE WHEN deleted_at IS NULL THEN 'sale' ELSE 'deletion' END,
        CASE WHEN n % 20 = 7 THEN 'sql' ELSE 'order-' || n / 25 END, created_at WHERE p.version = 2
    UNION ALL SELECT 'p0000001', 2 + n / 20, -1, 50100 - n / 20, 'sale', CASE WHEN n % 40 = 3 THEN 'order-busy' END,
        statement_timestamp() - make_interval(secs => 500000 - n / 20) WHERE n % 20 = 3
) AS m
"""
_RECORDS: LiteralString = """
INSERT INTO idempotency_records (caller, key, request_hash, status, body, product_ids, created_at)
SELECT '', 'key-' || md5(i::text), sha256(convert_to(i::text, 'UTF8')), 200, convert_to(repeat('x', 180), 'UTF8'),
    ARRAY['p' || lpad(i::text, 7, '0')], statement_timestamp() - make_interval(secs => (200000 - i) * 0.4)
FROM generate_series(1, 200000) AS i
"""
_RESERVATIONS: LiteralString = """
INSERT INTO reservations (id, reference, status, expires_at, created_at, updated_at, closed_at)
SELECT lpad(to_hex(i), 32, '0'), 'cart-' || i / 4, CASE WHEN i % 10 = 0 THEN 'held' ELSE 'committed' END,
    at + make_interval(secs => CASE WHEN i % 100 = 0 THEN 1 ELSE 1000000 END), at, at, CASE WHEN i % 10 <> 0 THEN at END
FROM (SELECT i, statement_timestamp() - make_interval(secs => 200001 - i) AS at FROM generate_series(1, 200000) AS i) AS made
"""
_LINES: LiteralString = """
INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, committed, expires_at)
SELECT r.id, line, 'p' || lpad((1 + (hashtext(r.id || line) & 1048575) % 1000000)::text, 7, '0'), 1,
    CASE WHEN closed_at IS NULL THEN 0 ELSE 1 END, r.expires_at
FROM reservations r CROSS JOIN generate_series(0, 1) AS line
"""

# Two transactions were under way at the first mark. The audit's fences have lapsed, so that a mark can be made without it.
_MARKS: LiteralString = """
WITH history AS (SELECT larder_epoch('products', 2147483647) AS epoch), newest AS (
    SELECT max(changed_xid)::text::bigint AS xid FROM products
), audited AS (
    INSERT INTO cache_audits (relation, namespace, announced, completed, epoch)
    SELECT 'products', 'million', 1, 1, epoch FROM history
)
INSERT INTO feed_marks (number, snapshot, epoch)
SELECT 1, format('%s:%s:%s,%s', xid - 900, xid - 199, xid - 900, xid - 500)::pg_snapshot, epoch FROM history, newest
UNION ALL SELECT 2, pg_current_snapshot(), epoch FROM history
"""


async def fill(url: str) -> None:
    """Fill a migrated, empty database, and let PostgreSQL look at it as its own housekeeping would."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("SET maintenance_work_mem = '256MB'")
        for step in (
            _HISTORY,
            _UNLOGGED,
            _OFF,
            _PRODUCTS,
            _MOVEMENTS,
            _RECORDS,
            _ON,
            _RESERVATIONS,
            _LINES,
            _MARKS,
            "VACUUM (ANALYZE) products, stock_movements, idempotency_records, reservations, reservation_lines",
        ):
            await connection.execute(step)

"""The SQL statements for accepted writes: requests that are in the database and not yet decided.

Whoever applies accepted writes locks their rows, and deletes exactly those that it decided. A row that is absent has therefore
been decided. Nothing may be concluded from the number of a row, because a lower number can be committed later than a higher.
"""

from typing import LiteralString

_COLUMNS: LiteralString = "seq, caller, key, request_hash, product_ids, operation, target, conditions, body, request_id"

_LOCK_WANTED: LiteralString = f"""
free AS MATERIALIZED (
    SELECT {_COLUMNS} FROM accepted_writes WHERE seq = ANY(ARRAY(SELECT seq FROM wanted)) AND failed_at IS NULL
    ORDER BY seq FOR UPDATE SKIP LOCKED
)
SELECT false AS held, free.* FROM free
UNION ALL
SELECT true, {_COLUMNS} FROM accepted_writes
WHERE seq = ANY(ARRAY(SELECT seq FROM wanted)) AND seq <> ALL(ARRAY(SELECT seq FROM free))
ORDER BY seq
"""  # noqa: S608 - a constant

TAKE_LOWEST: LiteralString = f"""
WITH wanted AS MATERIALIZED (
    SELECT seq FROM accepted_writes
    WHERE failed_at IS NULL AND (SELECT pg_try_advisory_xact_lock(hashtextextended('larder accepted writes', 0)))
    ORDER BY seq LIMIT %(limit)s
),
{_LOCK_WANTED}
"""  # noqa: S608 - a constant
"""Locks the lowest rows, if no other transaction of the applier is under way. Rows that somebody else applies are ``held``."""

# The plans are made while the table is empty, and kept. OFFSET makes PostgreSQL look rows up by these indices, instead of
# reading all waiting rows for a join with them.
_OF_RELATED: LiteralString = (
    "SELECT seq, product_ids, failed_at FROM accepted_writes WHERE product_ids @> ARRAY[related.id] OFFSET 0"
)
_OF_KEY: LiteralString = (
    "SELECT seq, product_ids, failed_at FROM accepted_writes WHERE caller = sent.caller AND key = sent.key OFFSET 0"
)

TAKE_BEFORE: LiteralString = f"""
WITH RECURSIVE related (id) AS (
    SELECT unnest(%(ids)s::text[] || ARRAY(
        SELECT unnest(a.product_ids) FROM unnest(%(callers)s::text[], %(keys)s::text[]) AS sent (caller, key)
        CROSS JOIN LATERAL ({_OF_KEY}) a WHERE a.failed_at IS NULL
    ))
    UNION
    SELECT unnest(a.product_ids) FROM related CROSS JOIN LATERAL ({_OF_RELATED}) a WHERE a.failed_at IS NULL
),
same_key AS MATERIALIZED (
    SELECT a.seq FROM unnest(%(callers)s::text[], %(keys)s::text[]) AS sent (caller, key)
    CROSS JOIN LATERAL ({_OF_KEY}) a WHERE a.failed_at IS NULL
),
wanted AS MATERIALIZED (
    SELECT seq FROM (
        SELECT a.seq FROM related CROSS JOIN LATERAL ({_OF_RELATED}) a WHERE a.failed_at IS NULL
        UNION SELECT seq FROM same_key
    ) AS found ORDER BY seq LIMIT %(limit)s
),
{_LOCK_WANTED}
"""  # noqa: S608 - a constant
"""Locks the rows that must be applied before a write of these products, or under these keys, may be decided.

They are the rows of the products, those that share a product with one of them, and so on: otherwise a row that names two
products could be applied before an earlier row of the other. At most ``limit`` rows are returned, the lowest first.
"""

PRODUCTS_OF_RESERVATIONS: LiteralString = (
    "SELECT DISTINCT product_id FROM reservation_lines WHERE reservation_id = ANY(%(ids)s::text[])"
)
"""Returns the products of the lines of reservations, before whose writes accepted ones come. They never change."""

APPLIED: LiteralString = "DELETE FROM accepted_writes WHERE seq = ANY(%(seqs)s::bigint[])"
"""Removes rows that this transaction has locked and decided."""

FAILED: LiteralString = """
UPDATE accepted_writes SET failed_at = statement_timestamp(), failure = c.failure
FROM unnest(%(seqs)s::bigint[], %(failures)s::text[]) AS c (seq, failure)
WHERE accepted_writes.seq = c.seq AND failed_at IS NULL
RETURNING 1
"""
"""Marks rows that cannot be applied. They are kept for the operator, and nobody waits for them any more."""

ACCEPTED: LiteralString = """
SELECT a.caller, a.key, a.request_hash, a.failure
FROM unnest(%(callers)s::text[], %(keys)s::text[]) AS sent (caller, key)
JOIN accepted_writes a ON a.caller = sent.caller AND a.key = sent.key
"""
"""Returns the accepted writes of these keys."""

ACCEPT: LiteralString = """
INSERT INTO accepted_writes (caller, key, request_hash, product_ids, operation, target, conditions, body, request_id)
SELECT caller, key, request_hash, string_to_array(product_ids, ' '), operation, target, conditions, body, request_id
FROM unnest(
    %(callers)s::text[], %(keys)s::text[], %(hashes)s::bytea[], %(product_ids)s::text[], %(operations)s::text[],
    %(targets)s::text[], %(conditions)s::text[], %(bodies)s::bytea[], %(request_ids)s::text[]
) WITH ORDINALITY AS c (caller, key, request_hash, product_ids, operation, target, conditions, body, request_id, place)
ORDER BY place
"""
"""Inserts accepted writes in the order in which they came. The transaction has the locks of their keys."""

BACKLOG: LiteralString = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM accepted_writes WHERE failed_at IS NULL LIMIT %(limit)s) AS waiting),
    coalesce((
        SELECT extract(epoch FROM clock_timestamp() - accepted_at)::float8
        FROM accepted_writes WHERE failed_at IS NULL ORDER BY seq LIMIT 1
    ), 0),
    (SELECT count(*) FROM accepted_writes WHERE failed_at IS NOT NULL),
    (SELECT max(seq) FROM accepted_writes)
"""
"""Returns how many rows wait, the age of the lowest in seconds, how many have failed, and the highest number, if any.

The number comes from the table, because reading its sequence needs a right of its own.
"""

"""The cache's SQL statements. The text below each describes its result and the reason for its form.

Those that write audit rows turn ``synchronous_commit`` on for themselves: writers rely on these rows, and behind a pooler no
session can be relied on to have it on. Statements about audits take several namespaces at once, as arrays of the same length,
so that an audit of all tables costs the statements of one. A table's name stands in the audit rows and in the epoch as
``relation``; ``knows`` is the newest schema of its payload that this release knows. ``named`` inserts the names of tables and
columns where PostgreSQL takes no parameter. The rows of the partitions of one namespace have the same name before ``#``.
"""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg.sql import SQL, Composed, Identifier, Literal

from ..entity import Entity


def parameters(entity: Entity) -> dict[str, str | int]:
    """Return the parameters of every statement about the epoch of one table."""
    return {"relation": entity.table, "knows": entity.schema}


def array_parameters(members: Sequence[tuple[Entity, str]]) -> dict[str, list[Any]]:
    """Return the parameters of every statement about the audits of several tables, each with the name of its namespace."""
    return {
        "relations": [entity.table for entity, _ in members],
        "namespaces": [namespace for _, namespace in members],
        "schemas": [entity.schema for entity, _ in members],
    }


def named(statement: LiteralString, entity: Entity) -> Composed:
    """Put the names of a table, its key, and its key's type into a statement."""
    names = {"table": Identifier(entity.table), "key": Identifier(entity.key), "type": SQL(entity.key_type)}
    return SQL(statement).format(**names)


_LOAD: LiteralString = """
WITH history AS MATERIALIZED (
    SELECT larder_epoch(%(relation)s::text, %(knows)s::integer) AS epoch, payload_schema
    FROM cache_generations WHERE relation = %(relation)s::text
)
SELECT history.epoch, history.payload_schema, wanted.key::text, {version}, {present}, t.{key}, {columns}
FROM history CROSS JOIN {wanted} AS wanted (key) LEFT JOIN {table} t ON t.{key} = wanted.key
"""
_KEYED_VERSION: LiteralString = """coalesce(t.version, (
    SELECT k.version FROM cache_keys k WHERE k.relation = %(relation)s::text AND k.key = wanted.key::text
), 0)"""
_WANTED: LiteralString = "unnest(%(keys)s::{type}[])"
_CHANGED_TOO: LiteralString = """(
    SELECT unnest(%(keys)s::{type}[])
    UNION (SELECT {key} FROM {table} WHERE changed_xid = pg_current_xact_id_if_assigned() LIMIT %(limit)s)
    UNION (
        SELECT key::{type} FROM cache_keys
        WHERE relation = %(relation)s::text AND gone AND changed_xid = pg_current_xact_id_if_assigned() LIMIT %(limit)s
    )
)"""


def load(entity: Entity) -> Composed:
    """Return the statement that loads rows by ``keys``: one row for each, with the epoch read in the same snapshot.

    Its columns are the epoch, the schema of the payload, the key as text, the version, whether the row is there, and then key
    and columns of the row.
    """
    return _load(entity, _WANTED)


def read_back(entity: Entity) -> Composed:
    """Return ``load`` for a transaction before its COMMIT: besides ``keys`` it loads every row that it changed.

    Up to ``limit`` rows are found, which SQL that names no key may have changed.
    """
    return _load(entity, _CHANGED_TOO)


def _load(entity: Entity, wanted: LiteralString) -> Composed:
    present: LiteralString = "t.version IS NOT NULL AND t.{} IS NULL" if entity.tombstone else "t.version IS NOT NULL"
    columns = [SQL("t.{}").format(Identifier(name)) for name in entity.columns]
    return SQL(_LOAD).format(
        table=Identifier(entity.table),
        key=Identifier(entity.key),
        version=SQL("coalesce(t.version, 0)" if entity.tombstone else _KEYED_VERSION),
        present=SQL(present).format(*([Identifier(entity.tombstone)] if entity.tombstone else [])),
        columns=SQL(", ").join(columns) if columns else SQL("NULL"),
        wanted=named(wanted, entity),
    )


EPOCH: LiteralString = "SELECT larder_epoch(%(relation)s::text, %(knows)s::integer)"
"""Returns the present epoch. Fails on a standby, during a restore, and for a release that lacks the payload's schema."""

READY: LiteralString = """
SELECT larder_epoch(%(relation)s::text, %(knows)s::integer), current_setting('transaction_read_only') = 'on'
"""
"""Returns the present epoch, as ``EPOCH``, and whether the database refuses writes."""

STANDING: LiteralString = """
WITH history AS MATERIALIZED (SELECT larder_epoch(%(relation)s::text, %(knows)s::integer) AS epoch)
SELECT history.epoch, a.namespace, a.announced, a.completed,
    extract(epoch FROM greatest(a.fenced_until, timestamptz 'epoch') - clock_timestamp())::float8
FROM history LEFT JOIN cache_audits a ON a.relation = %(relation)s::text AND a.epoch = history.epoch
"""
"""The present epoch, and the progress of the audits announced in it, by namespace.

Rows of another epoch are left out. The first cycle of an epoch waits until no fence can be live anywhere, so once a row has
this epoch the others cannot matter.
"""

ADOPT: LiteralString = """
INSERT INTO cache_audits AS a (relation, namespace, announced, epoch, fenced_until, other_until)
SELECT %(relation)s::text, own.namespace, 1, worst.epoch, worst.until, worst.until
FROM unnest(%(namespaces)s::text[]) AS own (namespace), (
    SELECT larder_epoch(%(relation)s::text, %(knows)s::integer) AS epoch,
        clock_timestamp() + make_interval(secs => %(max_ttl_s)s) AS until
) AS worst,
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true) AS durable
WHERE NOT EXISTS (
    SELECT FROM cache_audits o WHERE o.relation = %(relation)s::text AND o.epoch = worst.epoch
        AND (o.namespace = own.namespace OR split_part(o.namespace, '#', 1) <> split_part(own.namespace, '#', 1))
)
ORDER BY own.namespace
ON CONFLICT (relation, namespace, partition) DO UPDATE SET
    announced = a.announced + 1, epoch = excluded.epoch,
    fenced_until = greatest(a.fenced_until, excluded.fenced_until),
    other_until = greatest(a.other_until, excluded.other_until)
WHERE a.epoch <> excluded.epoch
"""
"""Announces, for an epoch without an audit, that fences of another history may live for ``max_ttl_s``, on any server.

An audit of a sibling partition waited for its own fences, and not for those of this one.
"""

ANNOUNCE: LiteralString = """
WITH given AS MATERIALIZED (
    SELECT w.* FROM unnest(%(relations)s::text[], %(namespaces)s::text[], %(schemas)s::bigint[], %(servers)s::text[])
        WITH ORDINALITY AS w (relation, namespace, knows, server, number)
), histories AS MATERIALIZED (
    SELECT t.relation, t.knows, tried.epoch, tried.objection
    FROM (SELECT DISTINCT relation, knows FROM given) t, larder_try_epoch(t.relation, t.knows::integer) AS tried
), wanted AS MATERIALIZED (
    SELECT w.*, split_part(w.namespace, '#', 1) AS family, h.epoch, h.objection, clock_timestamp() AS moment,
        make_interval(secs => %(margin_s)s) AS margin,
        to_regclass('ix_cache_audits_namespace') IS NOT NULL AS first_release
    FROM given w JOIN histories h ON h.relation = w.relation AND h.knows = w.knows
), rivals AS MATERIALIZED (
    SELECT DISTINCT ON (w.relation, w.family) w.relation, w.family, o.namespace
    FROM (SELECT DISTINCT ON (relation, family) * FROM wanted ORDER BY relation, family, moment) w JOIN cache_audits o
        ON o.relation = w.relation AND split_part(o.namespace, '#', 1) <> w.family
        AND (o.fenced_until + w.margin > w.moment OR w.first_release AND o.namespace NOT LIKE '%%~%%')
), start AS MATERIALIZED (
    SELECT w.*, w.moment + make_interval(secs => %(ttl_s)s) AS until,
        CASE WHEN EXISTS (
            SELECT FROM cache_audits o WHERE o.relation = w.relation AND o.epoch = w.epoch
                AND (o.namespace = w.namespace OR split_part(o.namespace, '#', 1) <> w.family)
        ) THEN timestamptz '-infinity' ELSE w.moment + make_interval(secs => %(max_ttl_s)s) END AS worst
    FROM wanted w WHERE w.epoch IS NOT NULL
        AND NOT EXISTS (SELECT FROM rivals r WHERE r.relation = w.relation AND r.family = w.family)
), said AS (
    INSERT INTO cache_audits AS a (relation, namespace, announced, server, epoch, fenced_until, other_until)
    SELECT s.relation, s.namespace, 1, s.server, s.epoch, greatest(s.until, s.worst), s.worst
    FROM start s,
        set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true) AS durable
    ORDER BY s.relation, s.namespace
    ON CONFLICT (relation, namespace, partition) DO UPDATE SET
        announced = a.announced + 1, server = excluded.server, epoch = excluded.epoch,
        fenced_until = greatest(a.fenced_until, excluded.fenced_until),
        other_until = greatest(a.other_until, excluded.other_until)
    WHERE NOT a.barred AND (
        a.server = excluded.server OR a.epoch <> excluded.epoch
        OR a.fenced_until + make_interval(secs => %(margin_s)s) <= clock_timestamp()
    )
    RETURNING relation, namespace, announced,
        extract(epoch FROM greatest(other_until, timestamptz 'epoch') - clock_timestamp())::float8 AS other_s
)
SELECT w.epoch, w.objection, said.announced, said.other_s, rivals.namespace, a.barred, a.server
FROM wanted w LEFT JOIN said ON said.relation = w.relation AND said.namespace = w.namespace
    LEFT JOIN rivals ON rivals.relation = w.relation AND rivals.family = w.family
    LEFT JOIN cache_audits a ON a.relation = w.relation AND a.namespace = w.namespace
ORDER BY w.number
"""
"""Makes the announcements of audits, or returns why each was not made: which server or namespace is trusted instead, or the
objection to the table's present state.

While no row has the present epoch, nothing is known about live fences or the servers that they name, because the rows may come
from a restore. Then the worst case is assumed: the largest TTL, on any server. The columns of ``a`` show the row as it
was before. Rows are written in one order, so that two instances cannot deadlock.

Partitions of one namespace are no rivals of each other. Each assumes the worst case for itself: the first audit of one waited
until no fence of an earlier epoch could live there, and says nothing of its siblings. If another namespace has the present
epoch, its first audit waited for all, because while it had the trust none of these could be announced.

Release 0.1.0 does not look for other namespaces. While it may run, which an index of its own shows until ``larder_finish``, a
namespace that it may use counts as trusted, whatever its row says.
"""

COMPLETE: LiteralString = """
WITH own AS MATERIALIZED (
    SELECT c.relation, c.namespace, c.cycle, c.epoch
    FROM unnest(%(relations)s::text[], %(namespaces)s::text[], %(cycles)s::bigint[], %(epochs)s::text[])
        AS c (relation, namespace, cycle, epoch)
    JOIN cache_audits a ON a.relation = c.relation AND a.namespace = c.namespace
    ORDER BY c.relation, c.namespace FOR NO KEY UPDATE OF a
)
UPDATE cache_audits a SET completed = greatest(a.completed, c.cycle)
FROM set_config('larder.snapshot', %(snapshot)s, true),
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true) AS durable,
    own c
WHERE a.relation = c.relation AND a.namespace = c.namespace AND a.epoch = c.epoch AND a.announced >= c.cycle
"""
"""Finishes cycles whose rows still belong to their history. A restored row counts the cycles of another one.

The rows are locked in the order in which ``ANNOUNCE`` writes them, so that two instances cannot deadlock.

The setting ``larder.snapshot`` says for the length of the statement which snapshot proved the cycles. A trigger on the audit
rows may read it, as that of the change feed does.
"""

SNAPSHOT: LiteralString = """
SELECT pg_current_snapshot()::text, tried.epoch, tried.objection, coalesce((
    SELECT namespace FROM cache_audits
    WHERE relation = w.relation AND split_part(namespace, '#', 1) <> split_part(w.namespace, '#', 1)
        AND fenced_until + make_interval(secs => %(margin_s)s) > clock_timestamp()
    LIMIT 1
), '')
FROM unnest(%(relations)s::text[], %(namespaces)s::text[], %(schemas)s::bigint[])
    WITH ORDINALITY AS w (relation, namespace, knows, number),
    larder_try_epoch(w.relation, w.knows::integer) AS tried
ORDER BY w.number
"""
"""Runs first in a REPEATABLE READ transaction. It fixes the snapshot and looks for other namespaces that may be trusted."""

_CHANGES: LiteralString = "SELECT {key}::text, version FROM {table} WHERE changed_xid >= %(xid)s::text::xid8"
_GONE: LiteralString = """
UNION ALL SELECT key, version FROM cache_keys
WHERE relation = %(relation)s AND gone AND changed_xid >= %(xid)s::text::xid8
"""


def changes(entity: Entity) -> Composed:
    """Return the statement that opens a cursor on key and version of the rows committed since the watermark ``xid``.

    There may be many. A deleted row is found in its tombstone, or in ``cache_keys``.
    """
    rows = named(_CHANGES, entity)
    return SQL("DECLARE changes NO SCROLL CURSOR FOR ") + (rows if entity.tombstone else rows + SQL(_GONE))


_COUNT_CHANGES: LiteralString = """
SELECT count(*) FROM (
    SELECT FROM {table} WHERE changed_xid >= %(since)s::text::xid8 AND changed_xid < %(upto)s::text::xid8 LIMIT %(most)s
) AS changed
"""


def count_changes(entity: Entity) -> Composed:
    """Return the statement that counts the rows changed between two watermarks, but at most ``most``."""
    return named(_COUNT_CHANGES, entity)


_FIRST_CHANGES: LiteralString = """(
    SELECT {number}::integer, {key}::text, version FROM {table} WHERE changed_xid >= (%(xids)s::text[])[{place}]::xid8
    LIMIT %(limit)s
)"""
_FIRST_GONE: LiteralString = """(
    SELECT {number}::integer, key, version FROM cache_keys
    WHERE relation = {relation} AND gone AND changed_xid >= (%(xids)s::text[])[{place}]::xid8
    LIMIT %(limit)s
)"""


def first_changes(entities: Sequence[Entity]) -> Composed:
    """Return the statement that reads the first changed rows of several tables: the table's place in the list, key, version.

    ``xids`` has the watermarks in order. ``limit`` holds for each table, and for its deleted rows once more.
    """
    parts: list[Composed] = []
    for number, entity in enumerate(entities):
        names = {"number": Literal(number), "place": Literal(number + 1), "key": Identifier(entity.key)}
        parts.append(SQL(_FIRST_CHANGES).format(**names, table=Identifier(entity.table)))
        if entity.tombstone is None:
            parts.append(SQL(_FIRST_GONE).format(**names, relation=Literal(entity.table)))
    return SQL(" UNION ALL ").join(parts)


def lock(entities: Sequence[Entity], *, wait: bool) -> Composed:
    """Return the statement that locks tables before their snapshot.

    After a TRUNCATE, an older snapshot finds no rows, but still reads the old epoch.
    """
    names = list(dict.fromkeys(entity.table for entity in entities))
    if any(entity.tombstone is None for entity in entities):
        names.append("cache_keys")
    tables = SQL(", ").join(map(Identifier, names))
    return SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(tables) + SQL("" if wait else " NOWAIT")

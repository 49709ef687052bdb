"""The cache's SQL statements for one table. The text below each describes its result and the reason for its form.

``%(relation)s`` is the table's name in the audit rows and in the epoch. ``%(knows)s`` is the newest schema of its payload that
this release knows. ``CachedTable.named`` inserts the names of table and key where PostgreSQL takes no parameter.
"""

from dataclasses import dataclass
from typing import LiteralString

from psycopg.sql import SQL, Composed, Identifier


@dataclass(frozen=True, slots=True)
class CachedTable:
    """A table whose rows are cached: its name, its key column, and the newest schema of its payload that this release knows."""

    name: str
    key: str
    schema: int

    @property
    def parameters(self) -> dict[str, str | int]:
        """The parameters that every statement about the epoch has."""
        return {"relation": self.name, "knows": self.schema}

    def named(self, statement: LiteralString) -> Composed:
        """Put the names of the table and its key into a statement."""
        return SQL(statement).format(table=Identifier(self.name), key=Identifier(self.key))


EPOCH: LiteralString = "SELECT larder_epoch(%(relation)s::text, %(knows)s::integer)"
"""Returns the present epoch. Fails on a standby, during a restore, and for a release that lacks the payload's schema."""

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
SELECT %(relation)s::text, %(namespace)s, 1, worst.epoch, worst.until, worst.until
FROM (
    SELECT larder_epoch(%(relation)s::text, %(knows)s::integer) AS epoch,
        clock_timestamp() + make_interval(secs => %(max_ttl_s)s) AS until
) AS worst
WHERE NOT EXISTS (SELECT FROM cache_audits o WHERE o.relation = %(relation)s::text AND o.epoch = worst.epoch)
ON CONFLICT (relation, namespace, partition) DO UPDATE SET
    announced = a.announced + 1, epoch = excluded.epoch,
    fenced_until = greatest(a.fenced_until, excluded.fenced_until),
    other_until = greatest(a.other_until, excluded.other_until)
WHERE a.epoch <> excluded.epoch
"""
"""Announces, for an epoch without an audit, that fences of another history may live for ``max_ttl_s``, on any server."""

ANNOUNCE: LiteralString = """
WITH history AS MATERIALIZED (
    SELECT larder_epoch(%(relation)s::text, %(knows)s::integer) AS epoch, clock_timestamp() AS moment,
        make_interval(secs => %(margin_s)s) AS margin
), rivals AS MATERIALIZED (
    SELECT o.namespace FROM cache_audits o, history
    WHERE o.relation = %(relation)s::text AND o.namespace <> %(namespace)s AND o.fenced_until + history.margin > history.moment
    LIMIT 1
), start AS MATERIALIZED (
    SELECT history.epoch, history.moment + make_interval(secs => %(ttl_s)s) AS until,
        CASE WHEN EXISTS (SELECT FROM cache_audits o WHERE o.relation = %(relation)s::text AND o.epoch = history.epoch)
            THEN timestamptz '-infinity' ELSE history.moment + make_interval(secs => %(max_ttl_s)s) END AS worst
    FROM history
), said AS (
    INSERT INTO cache_audits AS a (relation, namespace, announced, server, epoch, fenced_until, other_until)
    SELECT %(relation)s::text, %(namespace)s, 1, %(server)s, start.epoch, greatest(start.until, start.worst), start.worst
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
FROM history LEFT JOIN said ON true
    LEFT JOIN cache_audits a ON a.relation = %(relation)s::text AND a.namespace = %(namespace)s
"""
"""Makes an audit's announcement, or returns which server or namespace is trusted instead.

While no row has the present epoch, nothing is known about live fences or the servers that they name, because the rows may come
from a restore. Then the worst case is assumed: the largest TTL, on any server. The columns of ``a`` show the row as it
was before.
"""

COMPLETE: LiteralString = """
UPDATE cache_audits SET completed = greatest(completed, %(cycle)s)
WHERE relation = %(relation)s AND namespace = %(namespace)s AND epoch = %(epoch)s AND announced >= %(cycle)s
"""
"""Finishes a cycle if the row still belongs to its history. A restored row counts the cycles of another one."""

SNAPSHOT: LiteralString = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text, larder_epoch(%(relation)s::text, %(knows)s::integer), coalesce((
    SELECT namespace FROM cache_audits
    WHERE relation = %(relation)s::text AND namespace <> %(namespace)s
        AND fenced_until + make_interval(secs => %(margin_s)s) > clock_timestamp()
    LIMIT 1
), '')
"""
"""Runs first in a REPEATABLE READ transaction. It fixes the snapshot and looks for another namespace that may be trusted."""

CHANGES: LiteralString = """
DECLARE changes NO SCROLL CURSOR FOR
SELECT {key}, version FROM {table} WHERE changed_xid >= %(xid)s::text::xid8
"""
"""Opens a cursor on the rows committed since the watermark. It has only key and version, because there may be many rows."""

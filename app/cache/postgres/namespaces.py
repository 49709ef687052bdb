"""The cache namespaces of a table: which of them may be trusted, and which are barred from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from ...postgres.database import Database
from ..entity import Entity
from ..partitions import rows_of
from .table_queries import parameters

_LIST: LiteralString = """
SELECT split_part(namespace, '#', 1) AS family, sum(announced)::bigint, sum(completed)::bigint, bool_or(barred),
    bool_or(epoch = larder_epoch(%(relation)s::text, %(knows)s::integer)),
    extract(epoch FROM greatest(max(fenced_until), timestamptz 'epoch') - clock_timestamp())::float8
FROM cache_audits WHERE relation = %(relation)s::text GROUP BY family ORDER BY family
"""

_BAR: LiteralString = """
INSERT INTO cache_audits (relation, namespace, barred)
SELECT %(relation)s, namespace, %(barred)s FROM unnest(%(namespaces)s::text[]) AS namespace ORDER BY namespace
ON CONFLICT (relation, namespace, partition) DO UPDATE SET barred = excluded.barred
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace that some instance has used. The numbers are those of all its partitions, if it has some."""

    name: str
    announced: int
    completed: int
    barred: bool
    """Whether its audits announce nothing, so that its cache is not trusted."""
    current: bool
    """Whether its audit row has the database's present epoch."""
    trusted_s: float
    """Seconds for which the cache may still be trusted; negative if expired."""


async def list_namespaces(database: Database, entity: Entity) -> Sequence[Namespace]:
    """Return every namespace that an instance ever used for the table, sorted by name. Raises a ``DatabaseError``."""
    rows = await database.lists.rows(_LIST, parameters(entity))
    return [Namespace(*columns) for columns in rows]


async def bar(database: Database, entity: Entity, namespace: str, *, barred: bool) -> None:
    """Forbid a namespace's audits to announce anything, or allow it again. Raises a ``DatabaseError``.

    A fence that was announced before remains valid until it expires. Readers may trust it until then.
    """
    await database.lists.rows(_BAR, {"relation": entity.table, "namespaces": rows_of(namespace), "barred": barred})

"""The cache namespaces of the products table: which of them may be trusted, and who must not try to be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from app.postgres.database import Database
from app.products.payload import SCHEMA

_LIST: LiteralString = """
SELECT namespace, announced, completed, barred, epoch = larder_epoch('products', %(knows)s::integer),
    extract(epoch FROM greatest(fenced_until, timestamptz 'epoch') - clock_timestamp())::float8
FROM cache_audits WHERE relation = 'products' ORDER BY namespace
"""

_BAR: LiteralString = """
INSERT INTO cache_audits (relation, namespace, barred) VALUES ('products', %(namespace)s, %(barred)s)
ON CONFLICT (relation, namespace, partition) DO UPDATE SET barred = excluded.barred
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace that some instance has used."""

    name: str
    announced: int
    completed: int
    barred: bool
    """Its auditors announce nothing, so its cache is not trusted."""
    current: bool
    """Its audit row speaks of the database's present epoch."""
    trusted_s: float
    """Seconds for which its cache may be trusted at most; negative when that is past."""


async def list_namespaces(database: Database) -> Sequence[Namespace]:
    """Every namespace that an instance of this table ever used, by name. Raises a ``DatabaseError``."""
    return [Namespace(*columns) for columns in await database.lists.rows(_LIST, {"knows": SCHEMA})]


async def bar(database: Database, namespace: str, *, barred: bool) -> None:
    """Forbid the auditors of a namespace to announce anything, or allow it again. Raises a ``DatabaseError``.

    A fence that was announced before lives on until its time is over; readers may trust it until then.
    """
    await database.lists.rows(_BAR, {"namespace": namespace, "barred": barred})

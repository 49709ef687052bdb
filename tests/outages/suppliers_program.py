"""A cluster whose instances also cache suppliers, and draw another write policy for every write: the worst mixture."""

import sys
from collections.abc import Mapping, Sequence

from app.cache import cached_table
from tests.harness.cluster import Cluster, Instance, larder

TABLE = 'CREATE TABLE suppliers (id text COLLATE "C" PRIMARY KEY, name text NOT NULL, terms integer NOT NULL)'


class WithSuppliers:
    """A ``Program``: it draws from ``policies``, separated by commas; from all if there are none. ``prepare`` comes first."""

    def __init__(self, policies: str = "") -> None:
        self._policies = policies

    def __call__(self, instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        _, settings = larder(instance, database)
        return (sys.executable, "-m", "tests.outages.suppliers_serve"), {**settings, "LARDER_TEST_POLICIES": self._policies}


async def create_suppliers(cluster: Cluster) -> None:
    """Create the suppliers' table, as a migration of a service does."""
    async with await cluster.session() as session:
        await session.execute(TABLE)
        await session.execute(cached_table("suppliers", key="id", release=1).encode())

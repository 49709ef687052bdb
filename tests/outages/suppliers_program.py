"""A cluster whose instances also cache suppliers, and draw another write policy for every write: the worst mixture."""

import sys
from collections.abc import Mapping, Sequence

from app.cache import cached_table
from tests.harness.cluster import Cluster, Instance, larder

TABLE = 'CREATE TABLE suppliers (id text COLLATE "C" PRIMARY KEY, name text NOT NULL, terms integer NOT NULL)'


NEAR_BYTES = "20000"
"""A third of the slots that are read fit into it, so that copies also make room for others."""


class WithSuppliers:
    """A ``Program``: it draws from ``policies``, separated by commas; from all if there are none. ``prepare`` comes first.

    The first instance keeps copies of slots, the second one only some, the third one none.
    """

    def __init__(self, policies: str = "") -> None:
        self._policies = policies

    def __call__(self, instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        _, settings = larder(instance, database)
        near_bytes = ("1000000", NEAR_BYTES, "0")[instance.number % 3]
        own = {"LARDER_TEST_POLICIES": self._policies, "LARDER_NEAR_BYTES": near_bytes}
        return (sys.executable, "-m", "tests.outages.suppliers_serve"), {**settings, **own}


async def create_suppliers(cluster: Cluster) -> None:
    """Create the suppliers' table, as a migration of a service does."""
    async with await cluster.session() as session:
        await session.execute(TABLE)
        await session.execute(cached_table("suppliers", key="id", release=1).encode())

"""Processes of the service on real servers, and a client that looks into the slots."""

from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
import redis.asyncio

from app.cache.redis_store import Names
from tests.cache.rig import Process, open_process
from tests.conftest import SessionPostgres
from tests.servers.databases import create_database, drop_database, know_history, new_name


class Slots:
    """Looks into a namespace, and meddles with it, as somebody who knows nothing of the protocol."""

    def __init__(self, url: str, namespace: str) -> None:
        self.names = Names(namespace)
        self.client = redis.asyncio.Redis.from_url(url)

    async def get(self, key: str) -> bytes | None:
        """What a slot holds."""
        return await self.peek(self.names.prefix + key)

    async def peek(self, name: str) -> bytes | None:
        """What a Redis key holds."""
        found = await self.client.get(name)
        assert found is None or isinstance(found, bytes)
        return found

    async def set(self, key: str, value: bytes) -> None:
        """Put something into a slot."""
        await self.client.set(self.names.prefix + key, value)

    async def evict(self, key: str) -> None:
        """Empty a slot, as Redis itself may at any moment."""
        await self.client.delete(self.names.prefix + key)

    async def leased(self, key: str) -> bool:
        """Whether a slot holds a lease."""
        return (await self.get(key) or b"").startswith(b"L")


@pytest.fixture
async def slots(redis_url: str, namespace: str) -> AsyncIterator[Slots]:
    slots = Slots(redis_url, namespace)
    yield slots
    await slots.client.aclose()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def schedules_database(postgres: SessionPostgres, migrated_template: str) -> AsyncIterator[str]:
    """One database for all schedules: cloning one for each would take longer than the schedules do."""
    name = new_name()
    yield await create_database(postgres.url, name, template=migrated_template)
    await drop_database(postgres.url, name)


@pytest.fixture
async def products_url(schedules_database: str, namespace: str) -> str:
    """The URL of a migrated database whose products are gone, and with them the epoch that earlier tests cached in."""
    async with await psycopg.AsyncConnection.connect(schedules_database, autocommit=True) as connection:
        # The ledger first, which takes a superuser's hand: what it knows of would stay as tombstones.
        await connection.execute("ALTER TABLE stock_movements DISABLE TRIGGER zz_larder_fixed_truncate")
        await connection.execute("TRUNCATE stock_movements")
        await connection.execute("ALTER TABLE stock_movements ENABLE ALWAYS TRIGGER zz_larder_fixed_truncate")
        await connection.execute("TRUNCATE products")
    await know_history(schedules_database, namespace)
    await know_history(schedules_database, namespace)
    return schedules_database


@pytest.fixture
async def process(redis_url: str, products_url: str, namespace: str) -> AsyncIterator[Process]:
    """A process whose cache is proven current for the whole test."""
    async with open_process(redis_url, products_url, namespace) as process:
        await process.trust()
        yield process


@pytest.fixture
async def other(redis_url: str, products_url: str, namespace: str) -> AsyncIterator[Process]:
    """A second process of the same fleet; `process` proves the cache current for it, too."""
    async with open_process(redis_url, products_url, namespace) as other:
        yield other

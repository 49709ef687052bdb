"""Processes of the service on real servers, and a client that looks into the slots."""

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from app.cache.redis.store import Names
from app.cache.slot import INCARNATION_WIDTH, LEASE
from app.products.commands import Put
from tests.cache.rig import Process, draft, open_process


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

    async def lease(self, key: str) -> bytes:
        """Lease a slot to somebody else; return what it holds then."""
        watermark = await self.peek(self.names.watermark)
        assert watermark is not None
        lease = LEASE + watermark[-INCARNATION_WIDTH:] + b"somebody-else"
        await self.set(key, lease)
        return lease

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


@pytest.fixture
async def process(redis_url: str, database_url: str, namespace: str) -> AsyncIterator[Process]:
    """A process whose cache is proven current for the whole test."""
    async with open_process(redis_url, database_url, namespace) as process:
        await process.trust()
        yield process


@pytest.fixture
async def mug(process: Process) -> Process:
    """The process, with a product named mug at version 1 whose slot holds it."""
    assert (await process.write(Put(draft("mug")))).proven
    return process


@pytest.fixture
async def other(redis_url: str, database_url: str, namespace: str) -> AsyncIterator[Process]:
    """A second process of the same fleet; `process` proves the cache current for it, too."""
    async with open_process(redis_url, database_url, namespace) as other:
        yield other

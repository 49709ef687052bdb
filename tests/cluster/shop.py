"""Processes that share products through a cluster of Redis, and what a test moves and writes by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg.rows import TupleRow

from app.cache import Cache, Caches, Entity, Limits, Session, Status, open_caches
from app.cache.partitions import Partitions
from app.cache.redis.node_store import names_of
from app.cache.redis.store import Names, RedisOptions
from app.products.source import PRODUCTS
from tests.harness.redis_cluster import RedisCluster
from tests.limits import redis_options

PATIENCE_S = 20.0
PARTITIONS = 64
LIMITS = Limits(
    redis_retry_ms=20,
    redis_timeout_ms=1_000,
    redis_connect_timeout_ms=1_000,
    database_acquire_timeout_ms=5_000,
    cache_partitions=PARTITIONS,
    audit_interval_ms=60,
    fence_ttl_ms=600,
    fence_ttl_max_ms=600,
    settle_poll_ms=10,
    lease_ttl_ms=60_000,
)
KEYS = [f"mug-{number}" for number in range(200)]


@dataclass(frozen=True, slots=True)
class Shop:
    """Two processes on the same products."""

    one: Caches
    two: Caches
    entity: Entity
    partitions: Partitions
    hand: psycopg.AsyncConnection[TupleRow]

    @property
    def both(self) -> Sequence[Cache]:
        return [self.one[self.entity], self.two[self.entity]]

    def names(self, key: str) -> Names:
        """Return the names of the keys of a key's partition."""
        return names_of(self.partitions)[self.partitions.of(key)]

    def slot(self, key: str) -> int:
        """Return the hash slot of a key."""
        return self.partitions.slots[self.partitions.of(key)]

    async def write(self, key: str, cents: int) -> int:
        """Change a product by the first process, and return the version that it has now."""

        async def change(db: Session) -> None:
            await db.rows("UPDATE products SET price_cents = %(cents)s WHERE id = %(id)s", {"cents": cents, "id": key})

        states = await self.one[self.entity].write([key], change)
        return states[key].version

    async def versions(self, key: str) -> list[tuple[int, Status]]:
        """Read a product by both processes."""
        reads = [await cache.read(key) for cache in self.both]
        return [(read.state.version, read.status) for read in reads]

    async def until_hits(self, *keys: str) -> None:
        """Read until both processes answer every one of these keys from the cache."""

        async def hit() -> bool:
            reads = [read for cache in self.both for read in await cache.read_many(keys or KEYS)]
            return all(read.status is Status.HIT for read in reads)

        await until(hit)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def open_shop(
    url: str, database_url: str, namespace: str, *, limits: Limits = LIMITS, two: Limits | None = None
) -> AsyncIterator[Shop]:
    """Open both processes; the second one may have other limits."""
    entity = replace(PRODUCTS, namespace=namespace)
    async with AsyncExitStack() as opened:
        hand = await opened.enter_async_context(await psycopg.AsyncConnection.connect(database_url, autocommit=True))
        await hand.execute(
            "INSERT INTO products (id, name, price_cents) SELECT id, 'Mug', 5 FROM unnest(%s::text[]) AS id", [KEYS]
        )
        processes = [
            await opened.enter_async_context(open_caches(database_url, _options(url, one), [entity], limits=one))
            for one in (limits, two or limits)
        ]
        yield Shop(processes[0], processes[1], entity, Partitions(entity.cache_name, limits.cache_partitions), hand)


@asynccontextmanager
async def moved_back(cluster: RedisCluster, slot: int) -> AsyncIterator[None]:
    """Give a slot back to its owner at the end."""
    home = await cluster.owner(slot)
    yield
    if await cluster.owner(slot) is not home:
        await cluster.move(slot, home)


def _options(url: str, limits: Limits) -> RedisOptions:
    return replace(
        redis_options(url),
        timeout_ms=limits.redis_timeout_ms,
        connect_timeout_ms=limits.redis_connect_timeout_ms,
        retry_ms=limits.redis_retry_ms,
    )

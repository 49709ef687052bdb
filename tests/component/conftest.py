"""A database with products, suppliers and counters, and caches of all three."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import psycopg
import pytest
import redis.asyncio
from psycopg.rows import TupleRow

from app.cache import Caches, Entity, Limits, open_caches
from tests.contracts.entities import COUNTERS, SUBJECTS, SUPPLIERS
from tests.contracts.sources import prepare

Connection = psycopg.AsyncConnection[TupleRow]

LIMITS = Limits(
    redis_timeout_ms=5_000,
    redis_connect_timeout_ms=5_000,
    database_acquire_timeout_ms=5_000,
    audit_interval_ms=100,
    fence_ttl_ms=1_000,
    fence_ttl_max_ms=1_000,
)


@dataclass(frozen=True, slots=True)
class Tables:
    """The entities in namespaces of the test's own, and somebody with SQL."""

    products: Entity
    suppliers: Entity
    counters: Entity
    hand: Connection
    database_url: str

    @property
    def entities(self) -> list[Entity]:
        return [self.products, self.suppliers, self.counters]


@pytest.fixture
async def tables(database_url: str, namespace: str) -> AsyncIterator[Tables]:
    own = {
        name: replace(subject.entity, namespace=f"{namespace}-{name}" if name != "products" else namespace)
        for name, subject in SUBJECTS.items()
    }
    for name, entity in own.items():
        await prepare(database_url, entity.namespace, SUBJECTS[name])
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
        await hand.execute("INSERT INTO products (id, name, price_cents) VALUES ('mug', 'Mug', 5)")
        await hand.execute("INSERT INTO suppliers (id, name, terms) VALUES ('acme', 'Acme', 30)")
        await hand.execute("INSERT INTO counters (number, total) VALUES (7, 70)")
        yield Tables(own["products"], own[SUPPLIERS.table], own[COUNTERS.table], hand, database_url)


@pytest.fixture
async def caches(tables: Tables, redis_url: str) -> AsyncIterator[Caches]:
    async with open_caches(tables.database_url, redis_url, tables.entities, limits=LIMITS) as caches:
        yield caches


@pytest.fixture
async def slots(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()

"""What several tables in one process cost, counted on the wire."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
import pytest
import redis.asyncio

from app.cache import Entity, Limits, cached_table, open_caches
from app.cache.audit_loop import AuditLoop
from app.cache.redis.store import Names
from tests.cache.taps import Tap, postgres_proxy, redis_proxy
from tests.contracts.entities import payload

QUIET = Limits(
    redis_timeout_ms=5_000,
    redis_connect_timeout_ms=5_000,
    database_acquire_timeout_ms=5_000,
    audit_interval_ms=60_000,
    fence_ttl_ms=120_000,
    fence_ttl_max_ms=1_000,
    settle_timeout_ms=130_000,
)
"""Audits are run by the test alone, which makes the first ones in new epochs, so nothing has to be waited for."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one audit of all tables sent."""

    statements: list[str]
    postgres_round_trips: int
    redis_round_trips: int
    scripts: int


@asynccontextmanager
async def audits(redis_url: str, database_url: str, entities: list[Entity]) -> AsyncIterator[tuple[AuditLoop, Tap, Tap]]:
    """The loop of a process with these tables, and what it sends."""
    redis_tap, postgres_tap = Tap(), Tap()
    async with (
        redis_proxy(redis_url, redis_tap) as to_redis,
        postgres_proxy(database_url, postgres_tap) as to_postgres,
        open_caches(to_postgres, to_redis, entities, limits=QUIET) as caches,
    ):
        yield caches.loop, redis_tap, postgres_tap


async def cost_of(redis_url: str, database_url: str, entities: list[Entity]) -> Cost:
    """What an audit of these tables costs when nothing has changed."""
    client = redis.asyncio.Redis.from_url(redis_url)
    async with audits(redis_url, database_url, entities) as (loop, redis_tap, postgres_tap):
        for _ in range(8):  # statements are prepared after some uses
            await client.delete(*(Names(entity.cache_name).claim for entity in entities))
            redis_tap.clear()
            postgres_tap.clear()
            await loop.attempt_all()
        cost = Cost(list(postgres_tap.seen), postgres_tap.round_trips, redis_tap.round_trips, redis_tap.seen.count("EVALSHA"))
    await client.aclose()
    return cost


@pytest.mark.guarantee("G7")
async def test_audit_of_ten_idle_tables(redis_url: str, database_url: str, namespace: str) -> None:
    """It costs the statements and the round trips of one table; Redis gets a script for each, in the packets of one."""
    entities = [Entity(f"{namespace}-{n}", 1, f"table_{n}", "id", ("name",), payload) for n in range(10)]
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for entity in entities:
            await connection.execute(f"CREATE TABLE {entity.table} (id text PRIMARY KEY, name text)".encode())
            await connection.execute(cached_table(entity.table, "id", release=1).encode())
            await connection.execute(
                "INSERT INTO cache_audits (relation, namespace, epoch) VALUES (%(t)s, %(n)s, larder_epoch(%(t)s, 1))",
                {"t": entity.table, "n": entity.cache_name},
            )
    one = await cost_of(redis_url, database_url, entities[:1])
    ten = await cost_of(redis_url, database_url, entities)
    assert one.scripts == 2  # begin and trust: the audit went through all its steps
    assert 5 <= len(ten.statements) <= len(one.statements), ten
    assert ten.postgres_round_trips <= one.postgres_round_trips
    assert ten.redis_round_trips <= one.redis_round_trips
    assert ten.scripts == 10 * one.scripts

"""Further servers of a run for single faults: another Redis, and a service on another database."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from app.postgres.migrations import upgrade
from app.private_servers import RedisServer, start_redis
from tests.harness.cluster import PROBE, Cluster, Instance, an_instance
from tests.harness.servers import create_database

STRANGE_EPOCH = 9
"""The epoch number in the names of the other database's products."""
_DATABASE = "strange"
_NUMBER = 3


@dataclass(frozen=True, slots=True)
class Spare:
    """The further servers. ``redis`` keeps its data from fault to fault. ``stranger`` reaches Redis only during its fault."""

    redis: RedisServer
    stranger: Instance


@asynccontextmanager
async def start_spare(directory: Path, cluster: Cluster, keys: Collection[str]) -> AsyncIterator[Spare]:
    """Start both servers. The other database has products with the same ids."""
    redis_server = await start_redis(directory / "redis-2", options={"requirepass": cluster.redis.password})
    try:
        async with an_instance(cluster, _NUMBER) as stranger:
            stranger.redis.refuse()
            await create_database(cluster.postgres.url_of("postgres"), _DATABASE)
            await upgrade(cluster.postgres.url_of(_DATABASE))
            async with await psycopg.AsyncConnection.connect(cluster.postgres.url_of(_DATABASE), autocommit=True) as session:
                await session.execute(
                    "INSERT INTO products (id, name, price_cents) SELECT id, %s || id, 1 FROM unnest(%s::text[]) AS id",
                    [f"e{STRANGE_EPOCH} ", [*keys, PROBE]],
                )
            await stranger.restart(_DATABASE)
            yield Spare(redis_server, stranger)
    finally:
        await redis_server.stop()

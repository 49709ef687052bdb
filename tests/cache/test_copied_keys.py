"""Keys of the cache are copied one by one to another Redis, as tools and broken moves do (G1)."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from app.cache.redis.store import Names
from app.cache.write_through import Status
from app.private_servers import RedisServer
from app.products.commands import Put, set_stock
from tests.cache.rig import SHORT_FENCE, Process, draft, open_process
from tests.harness.script import PATIENCE_S

KEY = "mug"


@pytest.fixture
async def clients(redis_url: str, private_redis: RedisServer) -> AsyncIterator[tuple[redis.asyncio.Redis, redis.asyncio.Redis]]:
    source, target = redis.asyncio.Redis.from_url(redis_url), redis.asyncio.Redis.from_url(private_redis.url)
    yield source, target
    await source.aclose()
    await target.aclose()


async def copy(source: redis.asyncio.Redis, target: redis.asyncio.Redis, name: str) -> None:
    """Copy one key as ``MIGRATE COPY`` does."""
    content = await source.dump(name)
    assert isinstance(content, bytes)
    await target.restore(name, max(0, await source.pttl(name)), content, replace=True)


async def trusted_again(process: Process) -> None:
    """Audit until the cache is trusted."""
    async with asyncio.timeout(PATIENCE_S):
        while (cycle := await process.audit.cycle()) is None or not cycle.trusted:
            await asyncio.sleep(0.02)


@pytest.mark.guarantee("G1", "R6")
async def test_keys_moved_one_by_one_to_another_redis(
    redis_url: str,
    private_redis: RedisServer,
    database_url: str,
    namespace: str,
    clients: tuple[redis.asyncio.Redis, redis.asyncio.Redis],
) -> None:
    """A move that broke off left version 1 on the new server. The watermark, moved later, does not vouch for it."""
    names, (source, target) = Names(namespace), clients
    async with open_process(redis_url, database_url, namespace, config=SHORT_FENCE) as old:
        await trusted_again(old)
        await old.write(Put(draft(KEY)))
        assert (await old.cache.read(KEY)).state.version == 1
        await copy(source, target, names.prefix + KEY)
        await old.products.write(set_stock(KEY, 7))
        await trusted_again(old)
        await copy(source, target, names.watermark)
        await copy(source, target, names.fence)
    async with open_process(private_redis.url, database_url, namespace, config=SHORT_FENCE) as new:
        await trusted_again(new)
        read = await new.cache.read(KEY)
        assert (read.state.version, read.status) == (2, Status.STORED)
        assert (await new.cache.read(KEY)).status is Status.HIT

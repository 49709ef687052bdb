"""A Redis that ends connections which rest, and a process that nobody asks for a while."""

import asyncio

import pytest
import redis.asyncio

from app.cache.redis.store import RedisLinks
from app.private_servers import RedisServer
from tests.limits import redis_options

_TIMEOUT_S = 3
_LIMIT_S = 60.0


@pytest.mark.slow
async def test_resting_connections_are_kept(private_redis: RedisServer) -> None:
    """Each is used before the server would end it, so the first request after a silence meets none that is dead."""
    links = RedisLinks(redis_options(private_redis.url))
    async with redis.asyncio.Redis.from_url(private_redis.url) as admin, asyncio.timeout(_LIMIT_S):
        await links.start()
        own = {client["id"] for client in await admin.client_list()} - {str(await admin.client_id())}
        assert len(own) == len(links.all)
        await admin.config_set("timeout", _TIMEOUT_S)
        ages: dict[str, int] = {}
        while min(ages.values(), default=0) < 2 * _TIMEOUT_S:
            await asyncio.sleep(0.2)
            ages = {client["id"]: int(client["age"]) for client in await admin.client_list()}
            assert own <= ages.keys()
        for link in links.all:
            await link.call(("PING",))
    assert links.failures == 0
    await links.close()

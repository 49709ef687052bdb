"""A server that ends connections which rest, and a service that nobody asks for a while."""

import asyncio

import pytest
import redis.asyncio

from app.main import running
from app.private_servers import RedisServer
from app.products.commands import Create
from app.products.product import Draft
from app.settings import Settings

_TIMEOUT_S = 3
_LIMIT_S = 60.0


@pytest.mark.slow
async def test_first_read_after_a_silence_is_a_hit(private_redis: RedisServer, database_url: str, namespace: str) -> None:
    """Connections are used before the server would end them, so no request meets one that is dead."""
    given = {"DATABASE_URL": database_url, "REDIS_URL": private_redis.url, "CACHE_NAMESPACE": namespace, "ACCESS": "open"}
    given |= {"FENCE_TTL_MS": "20000", "FENCE_TTL_MAX_MS": "20000", "REDIS_TIMEOUT_MS": "5000"}
    async with (
        redis.asyncio.Redis.from_url(private_redis.url) as admin,
        running(Settings.from_env({f"LARDER_{name}": value for name, value in given.items()})) as larder,
        asyncio.timeout(_LIMIT_S),
    ):
        await admin.config_set("timeout", _TIMEOUT_S)
        await larder.products.write(Create(Draft("mug", "Mug", 100, 1)))
        while (await larder.products.get("mug")).status != "hit":
            await asyncio.sleep(0.05)
        failures, began = larder.store.failures, asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 2 * _TIMEOUT_S:
            await admin.ping()
            await asyncio.sleep(0.5)
        assert (await larder.products.get("mug")).status == "hit"
        assert larder.store.failures == failures

"""FastAPI with fastapi-cache (package fastapi-cache2): a cached read by its decorator, and a write that deletes the entry."""

import os

from fastapi_cache import FastAPICache
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.decorator import cache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.peers import catalogue
from benchmarks.peers.catalogue import TTL_S, Product

_redis = Redis.from_url(
    os.environ["PEER_REDIS_URL"],
    socket_timeout=0.25,
    socket_connect_timeout=0.25,
    retry=Retry(NoBackoff(), 1),
)
FastAPICache.init(RedisBackend(_redis), prefix="product")


def _key(_: object, namespace: str = "", *, kwargs: dict[str, str], **__: object) -> str:
    return f"{namespace}:{kwargs['product_id']}"


async def write(product_id: str, stock: int) -> Product:
    """Commit, then delete the entry."""
    product = await catalogue.count(product_id, stock)
    await FastAPICache.clear(key=f"product::{product_id}")
    return product


app = catalogue.service(None, write, _redis.aclose)


# On the endpoint, as its documentation has it: it sets the headers, too, and what it gives back is no model any more.
@app.get("/products/{product_id}")
@cache(expire=TTL_S, key_builder=_key)
async def get_product(product_id: str) -> Product:
    return await catalogue.load(product_id)

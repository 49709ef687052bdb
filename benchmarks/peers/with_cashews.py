"""FastAPI with cashews: a cached read, and writes that invalidate it, by the decorators of its documentation."""

import os

from cashews import cache
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.peers import catalogue
from benchmarks.peers.catalogue import TTL_S, Product

# Errors of Redis are suppressed and logged by cashews, which is its default: a failed GET is a miss.
cache.setup(
    os.environ["PEER_REDIS_URL"],
    socket_timeout=0.25,
    socket_connect_timeout=0.25,
    wait_for_connection_timeout=0.25,
    max_connections=50,
    retry=Retry(NoBackoff(), 1),
)


@cache(ttl=TTL_S, key="product:{product_id}")
async def read(product_id: str) -> Product:
    """From Redis, else from PostgreSQL into Redis."""
    return await catalogue.load(product_id)


@cache.invalidate("product:{product_id}")
async def write(product_id: str, stock: int) -> Product:
    """Commit; the decorator deletes the entry then."""
    return await catalogue.count(product_id, stock)


@cache.invalidate("product:{product_id}")
async def reprice(product_id: str, price_cents: int) -> Product:
    """As ``write``."""
    return await catalogue.reprice(product_id, price_cents)


@cache.invalidate("product:{product_id}")
async def adjust(product_id: str, delta: int) -> Product:
    """As ``write``."""
    return await catalogue.adjust(product_id, delta)


app = catalogue.service(read, write, cache.close, reprice=reprice, adjust=adjust)

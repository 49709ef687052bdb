"""The textbook's write-through: commit, then SETEX; if that fails, DEL; the TTL is for the rest."""

import logging
import os

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from benchmarks.peers import catalogue
from benchmarks.peers.catalogue import TTL_S, Product

_logger = logging.getLogger(__name__)
_redis = Redis.from_url(
    os.environ["PEER_REDIS_URL"],
    socket_timeout=0.25,
    socket_connect_timeout=0.25,
    retry=Retry(NoBackoff(), 1),
)


async def read(product_id: str) -> Product:
    """From Redis, else from PostgreSQL into Redis. A Redis that fails is a miss."""
    try:
        cached = await _redis.get(_key(product_id))
    except RedisError as error:
        _logger.warning("GET failed: %s", error)
        return await catalogue.load(product_id)
    if cached is not None:
        return Product.model_validate_json(cached)
    product = await catalogue.load(product_id)
    try:
        await _redis.setex(_key(product_id), TTL_S, product.model_dump_json())
    except RedisError as error:
        _logger.warning("SETEX failed: %s", error)
    return product


async def write(product_id: str, stock: int) -> Product:
    """Commit first: what PostgreSQL refuses never reaches Redis."""
    product = await catalogue.count(product_id, stock)
    try:
        await _redis.setex(_key(product_id), TTL_S, product.model_dump_json())
    except RedisError as error:
        _logger.warning("SETEX failed: %s", error)
        await _drop(product_id)
    return product


async def _drop(product_id: str) -> None:
    try:
        await _redis.delete(_key(product_id))
    except RedisError as error:
        _logger.warning("DEL failed: %s", error)


def _key(product_id: str) -> str:
    return f"product:{product_id}"


app = catalogue.service(read, write, _redis.aclose)

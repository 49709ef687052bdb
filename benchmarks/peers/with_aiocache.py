"""FastAPI with aiocache: a cached read by its decorator, and a write that deletes the entry."""

import logging
import os
from urllib.parse import urlsplit

from aiocache import cached, caches
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from benchmarks.peers import catalogue
from benchmarks.peers.catalogue import TTL_S, Product

_logger = logging.getLogger(__name__)
_address = urlsplit(os.environ["PEER_REDIS_URL"])
caches.set_config(
    {
        "default": {
            "cache": "aiocache.RedisCache",
            "endpoint": _address.hostname,
            "port": _address.port,
            "password": _address.password,
            "namespace": "product",
            "serializer": {"class": "aiocache.serializers.PickleSerializer"},
            "timeout": 0.5,
            "create_connection_timeout": 0.25,
            "connection_pool_kwargs": {"socket_timeout": 0.25, "retry": Retry(NoBackoff(), 1)},
        }
    }
)


def _key(_: object, product_id: str) -> str:
    return product_id


# A failed GET or SET is logged by the decorator, and is a miss.
@cached(ttl=TTL_S, alias="default", key_builder=_key)
async def read(product_id: str) -> Product:
    """From Redis, else from PostgreSQL into Redis."""
    return await catalogue.load(product_id)


async def write(product_id: str, stock: int) -> Product:
    """Commit, then delete the entry."""
    product = await catalogue.count(product_id, stock)
    try:
        await caches.get("default").delete(product_id)
    except (RedisError, OSError, TimeoutError) as error:
        _logger.warning("DEL failed: %s", error)
    return product


app = catalogue.service(read, write, caches.get("default").close)

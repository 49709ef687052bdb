"""The connection of a command to the cache. ``environment`` does not have it, so most commands do not load the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from app.cache.redis.audit_store import RedisAuditStore, RedisAuditStores
from app.main import products_of
from app.places import redis_options
from app.settings import Settings


@asynccontextmanager
async def open_audit_store(settings: Settings) -> AsyncIterator[RedisAuditStore]:
    """Open one connection to the cache of the settings.

    Raises:
        StoreUnavailable: Redis cannot be reached, or is lost meanwhile.
    """
    # The deadlines are longer, because a user prefers a slow answer to none.
    options = replace(
        redis_options(settings),
        timeout_ms=10 * settings.redis_timeout_ms,
        connect_timeout_ms=10 * settings.redis_connect_timeout_ms,
    )
    link = options.link()
    try:
        async with RedisAuditStores(link, products_of(settings).cache_name).open() as store:
            yield store
    finally:
        await link.close()
        await options.place.aclose()

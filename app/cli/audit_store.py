"""The connection of a command to the cache. ``environment`` does not have it, so most commands do not load the service."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from app.cache.partitions import Partitions
from app.cache.redis.audit_store import RedisAuditStore, RedisAuditStores
from app.cache.redis.nodes import RedisNodes
from app.cache.redis.partition_slots import RedisPartitionSlots, open_partition_slots
from app.main import products_of
from app.places import redis_options
from app.settings import Settings


@asynccontextmanager
async def open_audit_store(settings: Settings) -> AsyncIterator[RedisAuditStore | RedisPartitionSlots]:
    """Open one connection to the cache of the settings, or one to each node.

    Raises:
        StoreUnavailable: Redis cannot be reached, or is lost meanwhile.
    """
    # The deadlines are longer, because a user prefers a slow answer to none.
    options = replace(
        redis_options(settings),
        timeout_ms=10 * settings.redis_timeout_ms,
        connect_timeout_ms=10 * settings.redis_connect_timeout_ms,
    )
    name, number = products_of(settings).cache_name, settings.cache_partitions
    async with AsyncExitStack() as opened:
        opened.push_async_callback(options.place.aclose)
        if number > 1:
            partitions = Partitions(name, number)
            nodes = RedisNodes(options, partitions.slots)
            opened.push_async_callback(nodes.close)
            yield await opened.enter_async_context(open_partition_slots(nodes, partitions))
        else:
            link = options.link()
            opened.push_async_callback(link.close)
            yield await opened.enter_async_context(RedisAuditStores(link, name).open())

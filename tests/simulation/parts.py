"""What a simulated history is made of: the shipped classes over the fakes. A mutant swaps one part for a broken one."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from app.cache.audit import Audit
from app.cache.config import CacheConfig
from app.cache.history import History
from app.cache.ports import AuditSource, AuditStore, HistorySource, Source, State, Store, Value
from app.cache.write_through import Peeked, Read, Status, WriteThrough
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.redis import RedisServer

OpenStore = Callable[[], AbstractAsyncContextManager[AuditStore]]
OpenSource = Callable[[], AbstractAsyncContextManager[AuditSource]]


def same_store(store: Store) -> Store:
    """The store as it is."""
    return store


class WholeSource(Source, HistorySource, Protocol):
    """Rows and history of one source."""


def same_source(source: WholeSource) -> WholeSource:
    """The source as it is."""
    return source


def same_audit_stores(stores: OpenStore) -> OpenStore:
    """The audits' store as it is."""
    return stores


def same_audit_sources(sources: OpenSource) -> OpenSource:
    """The audits' source as it is."""
    return sources


def same_config(config: CacheConfig) -> CacheConfig:
    """The limits as they are."""
    return config


def same_states(states: list[State]) -> list[State]:
    """What a write publishes that was done before, or had nothing to change, as it is."""
    return states


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a mutant can swap."""

    redis: type[RedisServer] = RedisServer
    postgres: type[MemoryPostgres] = MemoryPostgres
    cache: type[WriteThrough] = WriteThrough
    audit: type[Audit] = Audit
    history: type[History] = History
    store: Callable[[Store], Store] = same_store
    source: Callable[[WholeSource], WholeSource] = same_source
    audit_stores: Callable[[OpenStore], OpenStore] = same_audit_stores
    audit_sources: Callable[[OpenSource], OpenSource] = same_audit_sources
    config: Callable[[CacheConfig], CacheConfig] = same_config
    replayed: Callable[[list[State]], list[State]] = same_states
    unchanged: Callable[[list[State]], list[State]] = same_states
    unknown_is_success: bool = False


SHIPPED = Parts()


async def read_as_served(cache: WriteThrough, key: str) -> Read:
    """Read a key as a GET does: the hot read peeks, and hands what it found on to the endpoint unless that is the answer."""
    peeked: asyncio.Future[Peeked] = asyncio.get_running_loop().create_future()
    cache.peek(key, peeked.set_result)
    found = await peeked
    if isinstance(found, Value):
        return Read(found, Status.HIT)
    await asyncio.sleep(0)  # the endpoint's task begins
    return await cache.read(key, reading=found)

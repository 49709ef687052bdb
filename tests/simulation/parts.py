"""What a simulated history is made of: the shipped classes over the fakes. A mutant swaps one part for a broken one."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

from app.cache.audit import Audit
from app.cache.audit_loop import AuditLoop
from app.cache.config import CacheConfig
from app.cache.history import History
from app.cache.ports import State, Value
from app.cache.shared_audit import SharedCycle
from app.cache.write_through import Peeked, Read, Status, WriteThrough
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.redis import RedisServer
from tests.fakes.shared_audit import MemorySharedSource, MemorySharedStore
from tests.fakes.source import MemoryAuditSource, MemorySource
from tests.fakes.store import MemoryAuditStore, MemoryStore

Same = TypeVar("Same")


def as_it_is(part: Same) -> Same:
    """Return what no mutant changes."""
    return part


def no_shared_cycle(_namespaces: Sequence[str]) -> AbstractAsyncContextManager[SharedCycle]:
    """What opens shared connections where there is one namespace: nothing."""
    raise AssertionError("a single namespace shares nothing")


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a mutant can swap."""

    redis: type[RedisServer] = RedisServer
    postgres: type[MemoryPostgres] = MemoryPostgres
    cache: type[WriteThrough] = WriteThrough
    audit: type[Audit] = Audit
    loop: type[AuditLoop] = AuditLoop
    history: type[History] = History
    store: type[MemoryStore] = MemoryStore
    source: type[MemorySource] = MemorySource
    audit_store: type[MemoryAuditStore] = MemoryAuditStore
    audit_source: type[MemoryAuditSource] = MemoryAuditSource
    shared_store: type[MemorySharedStore] = MemorySharedStore
    shared_source: type[MemorySharedSource] = MemorySharedSource
    config: Callable[[CacheConfig], CacheConfig] = as_it_is
    replayed: Callable[[list[State]], list[State]] = as_it_is
    """What a write publishes that was done before."""
    unchanged: Callable[[list[State]], list[State]] = as_it_is
    """What a write publishes that had nothing to change."""
    unknown_is_success: bool = False


SHIPPED = Parts()


async def read_as_served(cache: WriteThrough, key: str, *, late_s: float = 0.0) -> Read:
    """Read a key as a GET does: the hot read peeks, and hands what it found on to the endpoint unless that is the answer.

    A process that is busy begins the endpoint's task ``late_s`` later.
    """
    peeked: asyncio.Future[Peeked] = asyncio.get_running_loop().create_future()
    cache.peek(key, peeked.set_result)
    found = await peeked
    if isinstance(found, Value):
        return Read(found, Status.HIT)
    await asyncio.sleep(late_s)
    return await cache.read(key, reading=found)

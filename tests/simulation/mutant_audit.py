"""The audits' store and source with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from app.cache.ports import Announced, AuditSource, AuditStore, Begun, Deferred, FenceLimits, Repairs, Snapshot, Watermark
from tests.fakes.source import MemoryAuditSource
from tests.fakes.store import MemoryAuditStore
from tests.simulation.parts import OpenSource, OpenStore


class AuditStoreAround:
    """One cycle's store, handing everything on."""

    def __init__(self, store: AuditStore, stores: OpenStore) -> None:
        self._store = store
        self._stores = stores

    async def begin(self, claim_ms: int) -> Begun:
        return await self._store.begin(claim_ms)

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        return await self._store.verify(epoch, rows)

    async def purge(self, claim_ms: int) -> int:
        return await self._store.purge(claim_ms)

    async def distrust(self, mark: Watermark | None) -> None:
        await self._store.distrust(mark)

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        return await self._store.trust(begun, proven, fence_ttl_ms)


class TakesFenceBeforeMark(AuditStoreAround):
    """The fence is taken away first, and the watermark replaced by a mark second."""

    async def distrust(self, mark: Watermark | None) -> None:
        store = self._store
        assert isinstance(store, MemoryAuditStore)
        await store._run("distrust", lambda server, _: server.take_fence())
        await store._run("distrust, second command", lambda server, _: server.mark(mark))


class PurgesFirst(AuditStoreAround):
    """Slots are deleted before the snapshot, not after it."""

    async def begin(self, claim_ms: int) -> Begun:
        begun = await self._store.begin(claim_ms)
        if begun.claimed and begun.watermark is None:
            await self._store.purge(claim_ms)
        return begun

    async def purge(self, claim_ms: int) -> int:
        return 0


class PurgesNothing(AuditStoreAround):
    """A lost watermark is simply set anew."""

    async def purge(self, claim_ms: int) -> int:
        return 0


class VerifiesNothing(AuditStoreAround):
    """Rows are not compared."""

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        return Repairs()


class ReconnectsEachTime(AuditStoreAround):
    """Each command of a cycle goes over a connection of its own, to whichever server answers."""

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        async with self._stores() as store:
            return await store.verify(epoch, rows)

    async def purge(self, claim_ms: int) -> int:
        async with self._stores() as store:
            return await store.purge(claim_ms)

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        async with self._stores() as store:
            assert isinstance(store, MemoryAuditStore)
            assert store._connection is not None
            return await store.trust(replace(begun, server=store._connection.identity), proven, fence_ttl_ms)


class AuditSourceAround:
    """One cycle's source, handing everything on."""

    def __init__(self, source: MemoryAuditSource) -> None:
        self._source = source

    async def tell_epoch(self) -> str:
        return await self._source.tell_epoch()

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        return await self._source.announce(server, limits)

    def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AbstractAsyncContextManager[Snapshot]:
        return self._source.snapshot(since, limits, page_rows)

    async def complete(self, cycle: int) -> None:
        await self._source.complete(cycle)


class SnapshotsFirst(AuditSourceAround):
    """The snapshot is taken before the announcement."""

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        self._moment, _ = await self._source._ask("snapshot", lambda: self._source._take(limits))
        try:
            return await self._source.announce(server, limits)
        finally:
            self._source._postgres.let_go(self._source._wire.client)

    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        moment = self._moment
        yield Snapshot(moment.epoch, moment.xmin, self._source._pages(moment, since, page_rows))


class CompletesFirst(AuditSourceAround):
    """The cycle is said to be complete before anything was compared."""

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        announced = await self._source.announce(server, limits)
        if isinstance(announced, Announced):
            await self._source.complete(announced.cycle)
        return announced


class AnnouncesNothing(AuditSourceAround):
    """The fence is set without telling the database."""

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        return await self._source.announce(server, replace(limits, ttl_ms=-100_000))


class AnySession(MemoryAuditSource):
    """A session that is made anew for each statement."""

    def _in_session(self) -> bool:
        return True


class ReconnectsSource(AuditSourceAround):
    """A session that is lost in mid-cycle is replaced by another one, whatever server answers."""

    def __init__(self, source: MemoryAuditSource) -> None:
        super().__init__(AnySession(source._postgres, source._wire))


def around_stores(kind: type[AuditStoreAround]) -> Callable[[OpenStore], OpenStore]:
    """Put a class around each cycle's store."""

    def wrap(stores: OpenStore) -> OpenStore:
        @asynccontextmanager
        async def opened() -> AsyncIterator[AuditStore]:
            async with stores() as store:
                yield kind(store, stores)

        return opened

    return wrap


def around_sources(kind: type[AuditSourceAround]) -> Callable[[OpenSource], OpenSource]:
    """Put a class around each cycle's source."""

    def wrap(sources: OpenSource) -> OpenSource:
        @asynccontextmanager
        async def opened() -> AsyncIterator[AuditSource]:
            async with sources() as source:
                assert isinstance(source, MemoryAuditSource)
                yield kind(source)

        return opened

    return wrap

"""The audits' store and source with one guard off."""

# ruff: noqa: ARG002 - a guard that is off looks at nothing

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from app.cache.ports import Announced, Begun, Deferred, FenceLimits, Repairs, Snapshot, Watermark
from tests.fakes.source import MemoryAuditSource
from tests.fakes.store import MemoryAuditStore, open_audit_store


class TakesFenceBeforeMark(MemoryAuditStore):
    """The fence is taken away first, and the watermark replaced by a mark second."""

    async def distrust(self, mark: Watermark | None) -> None:
        await self._run("distrust", lambda server, _: server.take_fence())
        await self._run("distrust, second command", lambda server, _: server.mark(mark))


class VerifiesNothing(MemoryAuditStore):
    """Rows are not compared."""

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        return Repairs()


class ReconnectsEachTime(MemoryAuditStore):
    """Each command of a cycle goes over a connection of its own, to whichever server answers."""

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        async with open_audit_store(self._route, self._wire) as store:
            return await store.verify(epoch, rows)

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        async with open_audit_store(self._route, self._wire) as store:
            assert store._connection is not None
            return await store.trust(replace(begun, server=store._connection.identity), proven, fence_ttl_ms)


class SnapshotsFirst(MemoryAuditSource):
    """The snapshot is taken before the announcement."""

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        self._moment, _ = await self._ask("snapshot", lambda: self._take(limits))
        try:
            return await super().announce(server, limits)
        finally:
            self._postgres.let_go(self._wire.client)

    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        moment = self._moment
        yield Snapshot(moment.epoch, moment.xmin, self._pages(moment, since, page_rows))


class CompletesFirst(MemoryAuditSource):
    """The cycle is said to be complete before anything was compared."""

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        announced = await super().announce(server, limits)
        if isinstance(announced, Announced):
            await self.complete(announced.cycle)
        return announced


class AnnouncesNothing(MemoryAuditSource):
    """The fence is set without telling the database."""

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        return await super().announce(server, replace(limits, ttl_ms=-100_000))


class ReconnectsSource(MemoryAuditSource):
    """A session that is lost in mid-cycle is replaced by another one, whatever server answers."""

    def _in_session(self) -> bool:
        return True

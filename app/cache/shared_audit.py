"""Cycles of several namespaces on one connection and one session: calls that come together share a round trip.

Each namespace's audit goes through its own steps (``audit``), on the ports of this module. Its calls wait for the end of the
event loop's iteration. The audits begin together, and the answers to a step reach them in one iteration, so they come to the
next step together as well. One that has fallen behind sends its call alone, and nobody waits for it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from typing_extensions import override

from .audit import AuditPorts
from .batcher import Batcher
from .errors import NeedsOwnCycle
from .ports import (
    Announced,
    AnnounceRequest,
    AuditSource,
    AuditStore,
    Begun,
    Deferred,
    FenceLimits,
    FirstPage,
    Repairs,
    SharedAuditSource,
    SharedAuditStore,
    Snapshot,
    SnapshotRequest,
    TrustRequest,
    VerifyRequest,
    Watermark,
)


class SharedCycle:
    """The connections of one cycle of several namespaces."""

    def __init__(self, store: SharedAuditStore, source: SharedAuditSource, namespaces: Sequence[str]) -> None:
        most = len(namespaces)
        self.store = store
        self.source = source
        self.begins: Batcher[tuple[str, int], Begun] = Batcher(store.begin, max_weight=most, queue_limit=most)
        self.verifies: Batcher[VerifyRequest, Repairs] = Batcher(store.verify, max_weight=most, queue_limit=most)
        self.trusts: Batcher[TrustRequest, bool] = Batcher(store.trust, max_weight=most, queue_limit=most)
        self.announcements: Batcher[AnnounceRequest, Announced | Deferred] = Batcher(
            source.announce, max_weight=most, queue_limit=most
        )
        self.snapshots: Batcher[SnapshotRequest, FirstPage] = Batcher(source.snapshot, max_weight=most, queue_limit=most)
        self.completions: Batcher[tuple[str, int, str], None] = Batcher(source.complete, max_weight=most, queue_limit=most)

    def ports(self, namespace: str) -> AuditPorts:
        """Return the ports of one namespace's cycle."""
        return AuditPorts(lambda: _open_store(self, namespace), lambda: _open_source(self, namespace))


@asynccontextmanager
async def _open_store(shared: SharedCycle, namespace: str) -> AsyncIterator["_NamespaceStore"]:
    try:
        yield _NamespaceStore(shared, namespace)
    except Exception:
        await shared.store.give_claim_back(namespace)
        raise


@asynccontextmanager
async def _open_source(shared: SharedCycle, namespace: str) -> AsyncIterator["_NamespaceSource"]:
    yield _NamespaceSource(shared, namespace)


class _NamespaceStore(AuditStore):
    """The ``AuditStore`` port of one namespace on the shared connection."""

    def __init__(self, shared: SharedCycle, namespace: str) -> None:
        self._shared = shared
        self._namespace = namespace

    @override
    async def begin(self, claim_ms: int) -> Begun:
        return await self._shared.begins.submit((self._namespace, claim_ms))

    @override
    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        return await self._shared.verifies.submit((self._namespace, epoch, rows))

    @override
    async def distrust(self, mark: Watermark | None) -> None:
        await self._shared.store.distrust(self._namespace, mark)

    @override
    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        return await self._shared.trusts.submit((self._namespace, begun, proven, fence_ttl_ms))


class _NamespaceSource(AuditSource):
    """The ``AuditSource`` port of one namespace on the shared session."""

    def __init__(self, shared: SharedCycle, namespace: str) -> None:
        self._shared = shared
        self._namespace = namespace
        self._announced_epoch = ""

    @override
    async def tell_epoch(self) -> str:
        return await self._shared.source.tell_epoch(self._namespace)

    @override
    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        announced = await self._shared.announcements.submit((self._namespace, server, limits))
        self._announced_epoch = announced.epoch
        return announced

    @override
    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        page = await self._shared.snapshots.submit((self._namespace, since, limits, page_rows))
        known = since is not None and since.xid is not None and since.epoch == page.epoch
        async with aclosing(self._pages(page, known=known)) as pages:
            yield Snapshot(page.epoch, page.xmin, pages, page.rival)

    @override
    async def complete(self, cycle: int) -> None:
        await self._shared.completions.submit((self._namespace, cycle, self._announced_epoch))

    async def _pages(self, page: FirstPage, *, known: bool) -> AsyncGenerator[Sequence[tuple[str, int]], None]:
        if not known:
            return
        if page.rows is None:
            raise NeedsOwnCycle(f"more rows of {self._namespace} changed than fit into one page")
        if page.rows:
            yield page.rows

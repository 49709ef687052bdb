"""The audit proves twice a second, for all instances, that no slot is older than its row (R5, R6).

A cycle uses one store connection and one source session from beginning to end, because a repair on one server and a fence on
another would prove nothing.

1. Store: try to claim the interval, and read clock, identity and watermark. An instance that cannot reach the store does not
   claim. One that does not get the claim has still read the watermark: a higher timeline in it shows that the instance's
   database is an old primary.
2. Source, committed: announce the cycle and how long its fence may live. Settling writers rely on this. The announcement is
   refused while another server or another namespace is trusted.
3. Source: take a snapshot after the announcement. The cycle ends if the snapshot has another epoch than the announcement, or if
   another namespace may be trusted.
4. Store: compare every row changed since the watermark with its slot, and delete slots that are older, of another epoch, or
   leased. Without a watermark of this epoch that was set over this server's data, compare nothing.
5. Store: move watermark and fence. Without such a watermark, both get a new incarnation, which makes every slot and lease void
   (R6). A cycle that took longer than the fence's TTL sets only the watermark. The next cycle then starts from there, so even
   comparisons that take longer than a fence lives make progress.
6. Source: record that the cycle is complete.

A cycle that fails gives its claim back. Unless the store was the cause, its instance then queries its database before each
claim of the next few intervals, and claims only after an answer: an instance without a database must not take the claim from
the others.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from typing_extensions import override

from .config import CacheConfig
from .errors import CacheError, NeedsOwnCycle, SourceUnavailable, StoreUnavailable
from .history import History, timeline_of
from .ports import Announced, AuditSource, AuditStore, Begun, Clock, Deferred, Repairs, Watermark
from .stats import Stats

log = logging.getLogger(__name__)

CLAIM_SHARE = 0.75
"""Lifetime of a claim as a share of the audit interval. It expires before the holder's next attempt."""
CAUTIOUS_INTERVALS = 4
"""Intervals after a failed cycle in which the instance queries its database before it claims."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """The result of one audit. If ``trusted``, the fence was moved and the cycle completed."""

    number: int
    trusted: bool
    repairs: Repairs = field(default_factory=Repairs)
    clean: bool = False
    """Whether there was no watermark of this epoch that was set over this server's data, so that a new incarnation begins."""
    deferred: str = ""
    """Which server or namespace is trusted instead; empty if none is known."""


@dataclass(frozen=True, slots=True)
class AuditPorts:
    """What opens the store's connection and the source's session of one cycle."""

    open_store: Callable[[], AbstractAsyncContextManager[AuditStore]]
    open_source: Callable[[], AbstractAsyncContextManager[AuditSource]]


class Auditor(ABC):
    """One process's auditor of one namespace. ``AuditLoop`` runs it."""

    def __init__(self, config: CacheConfig, stats: Stats, *, history: History, clock: Clock = time.monotonic) -> None:
        self._config = config
        self._stats = stats
        self._history = history
        self._clock = clock
        self._claim_ms = max(1, int(config.audit_interval_ms * CLAIM_SHARE))
        self._cautious_until = float("-inf")
        self._hindrance = ""
        self.failed = False
        """Whether the last cycle failed."""

    async def attempt(self, ports: AuditPorts | None = None) -> bool:
        """Run one cycle; return whether this instance had the claim, or True if the cycle failed.

        A failure of any kind is counted and logged, and the next cycle starts afresh.

        Args:
            ports: connections shared with other namespaces; by default the cycle opens its own.

        Raises:
            NeedsOwnCycle: nothing failed, but the cycle cannot be finished on shared connections.
        """
        try:
            cycle = await self.cycle(ports)
        except NeedsOwnCycle:
            raise
        except Exception as error:  # noqa: BLE001 - recorded there; the next cycle starts afresh
            self.record_failure(error)
            return True
        self.failed = False
        if cycle is not None:
            self._log_once(cycle.deferred, logging.INFO)
        return cycle is not None

    def record_failure(self, error: Exception) -> None:
        """Count and log a cycle that failed."""
        self.failed = True
        self._stats.audit_failures += 1
        if not isinstance(error, CacheError):
            self._stats.unexpected += 1
            log.error("an audit ended with an unexpected error; the next one begins as usual", exc_info=error)
        self._log_once(f"the cache cannot be proven current, reads go to the database: {error}", logging.WARNING)

    def _log_once(self, hindrance: str, level: int) -> None:
        if hindrance and hindrance != self._hindrance:  # logged once: an outage lasts many intervals
            log.log(level, "%s", hindrance)
        self._hindrance = hindrance

    @property
    def stats(self) -> Stats:
        """The counters of the namespace."""
        return self._stats

    @property
    def history(self) -> History:
        """The source's history."""
        return self._history

    @abstractmethod
    async def cycle(self, ports: AuditPorts | None = None) -> Cycle | None:
        """Run one cycle; return ``None`` if another instance has this interval's claim. See ``attempt``.

        Raises:
            StoreUnavailable, SourceUnavailable: the cycle ended early and proved nothing.
        """

    def _is_cautious(self) -> bool:
        """Return whether a cycle failed a short while ago, so that the database is asked before anything is claimed."""
        return self._clock() < self._cautious_until

    def _be_cautious(self) -> None:
        self._cautious_until = self._clock() + CAUTIOUS_INTERVALS * self._config.audit_interval_ms / 1000

    def _is_of_predecessor(self, watermark: Watermark | None) -> bool:
        """Return whether a watermark is of an earlier timeline, so that a mark must show it to an old primary's auditor."""
        return watermark is not None and self._history.succeeds(watermark.epoch) and not self._history.deposed

    def _check_epoch(self, announced: str, found: str) -> None:
        if found != announced:
            raise SourceUnavailable(
                "the database changed between two steps of an audit: another server answered, or a new history began"
            )

    def _count(self, cycle: Cycle, began: float) -> None:
        now = self._clock()
        self._stats.audits += 1
        self._stats.audit_duration.observe(now - began)
        self._stats.repairs += cycle.repairs
        if cycle.trusted:
            self._stats.last_audit = now
        if cycle.deferred:
            self._stats.audit_deferrals += 1
        if cycle.clean:
            self._stats.clean_starts += 1


class Audit(Auditor):
    """One process's auditor of a namespace that is not divided into partitions."""

    def __init__(
        self,
        open_store: Callable[[], AbstractAsyncContextManager[AuditStore]],
        open_source: Callable[[], AbstractAsyncContextManager[AuditSource]],
        config: CacheConfig,
        stats: Stats,
        *,
        history: History,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(config, stats, history=history, clock=clock)
        self._own = AuditPorts(open_store, open_source)

    @override
    async def cycle(self, ports: AuditPorts | None = None) -> Cycle | None:
        began = self._clock()
        ports = ports or self._own
        async with ports.open_source() as source, ports.open_store() as store:
            if self._is_cautious():
                await self._ask_epoch(source)
            begun = await store.begin(self._claim_ms)
            if begun.watermark is not None:
                self._history.note_stored(begun.watermark.epoch)
            if not begun.claimed:
                await self._depose(begun, store)
                return None
            try:
                cycle = await self._prove(begun, store, source)
            except (StoreUnavailable, NeedsOwnCycle):
                raise
            except Exception:
                self._be_cautious()
                raise
        self._count(cycle, began)
        return cycle

    async def _depose(self, begun: Begun, store: AuditStore) -> None:
        """Mark the store, so that an old primary's auditor notices the newer primary."""
        if self._is_of_predecessor(begun.watermark):
            await store.distrust(Watermark(self._history.epoch, None))

    async def _prove(self, begun: Begun, store: AuditStore, source: AuditSource) -> Cycle:
        announced = await self._announce(begun, source)
        if isinstance(announced, Deferred):
            return Cycle(0, trusted=False, deferred=announced.reason)
        begun = await self._end_other_epoch(begun, announced.epoch, store)
        if announced.other_remaining_s + self._config.settle_margin_ms / 1000 > 0:
            # Another server's fence may be live. While instances still read there, writers must not rely on this server's
            # fence.
            return Cycle(announced.cycle, trusted=False)
        limits, repairs = self._config.fences, Repairs()
        since = begun.watermark if begun.counts else None
        async with source.snapshot(since, limits, self._config.audit_page_rows) as snapshot:
            self._check_epoch(announced.epoch, snapshot.epoch)
            if snapshot.rival:
                return Cycle(announced.cycle, trusted=False, deferred=f"namespace {snapshot.rival} is trusted")
            async for rows in snapshot.pages:
                repairs += await store.verify(snapshot.epoch, rows)
        trusted = await store.trust(begun, Watermark(snapshot.epoch, snapshot.xmin), limits.ttl_ms)
        if trusted:
            await source.complete(announced.cycle)
        if since is None:
            log.log(
                logging.INFO if begun.watermark is None else logging.WARNING,
                "no audit has compared the data of this Redis server in the database's present epoch: the cache starts clean",
            )
        return Cycle(announced.cycle, trusted, repairs, clean=since is None)

    async def _announce(self, begun: Begun, source: AuditSource) -> Announced | Deferred:
        asked_at = self._clock()
        announced = await source.announce(begun.server, self._config.fences)
        self._history.record(announced.epoch, asked_at)
        return announced

    async def _ask_epoch(self, source: AuditSource) -> None:
        asked_at = self._clock()
        self._history.record(await source.tell_epoch(), asked_at)

    async def _end_other_epoch(self, begun: Begun, epoch: str, store: AuditStore) -> Begun:
        """Delete another epoch's fence and replace its watermark; return what the store then holds."""
        if begun.watermark is None or begun.watermark.epoch == epoch:
            return begun
        # If it stayed, readers would trust the old epoch's fence (G4) while this cycle waits.
        mark = mark_of(epoch)
        await store.distrust(mark)
        return replace(begun, watermark=mark, counts=False)


def mark_of(epoch: str) -> Watermark | None:
    """Return the mark that replaces a watermark of another epoch than this one."""
    return Watermark(epoch, None) if timeline_of(epoch) else None

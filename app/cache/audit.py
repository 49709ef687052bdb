"""The audit: proves twice a second, for the whole fleet, that no slot is older than its row (R5, R6).

A cycle uses one store connection and one source session from end to end: a repair sent to one server and a fence set on
another would prove nothing.

1. Store: claim the interval; its clock, its identity, the watermark. Who cannot reach the store does not claim.
2. Source, committed: announce the cycle and how long its fence may live. Writers that settle count on this.
3. Source: a snapshot taken after the announcement.
4. Store: compare every row changed since the watermark with its slot; delete what is older, of another epoch, or a lease.
   Without a watermark of this epoch: delete every slot instead (R6).
5. Store: move watermark and fence. Of a cycle that took longer than its fence may live, the watermark alone: what was
   compared need not be compared again, and so the next cycle is quicker, also where a purge always takes so long.
6. Source: the cycle is complete.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from app.cache.config import CacheConfig
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.ports import AuditSource, AuditStore, Clock, Repairs, Watermark
from app.cache.stats import Stats

log = logging.getLogger(__name__)

CLAIM_SHARE = 0.9
"""Of the interval: a claim that outlived its holder's next tick would make that tick come to nothing."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """What one audit did. ``trusted``: the fence was moved, and the cycle completed."""

    number: int
    trusted: bool
    repairs: Repairs = field(default_factory=Repairs)
    purged: int | None = None
    """Slots deleted because there was no watermark of this epoch; ``None`` when there was one."""


class Audit:
    """One process's auditor of one namespace."""

    def __init__(
        self,
        open_store: Callable[[], AbstractAsyncContextManager[AuditStore]],
        open_source: Callable[[], AbstractAsyncContextManager[AuditSource]],
        config: CacheConfig,
        stats: Stats,
        clock: Clock = time.monotonic,
    ) -> None:
        self._open_store = open_store
        self._open_source = open_source
        self._config = config
        self._stats = stats
        self._clock = clock
        self._proving = True

    async def run(self) -> None:
        """Audit every interval until cancelled."""
        interval_s = self._config.audit_interval_ms / 1000
        while True:
            began = self._clock()
            await self.attempt()
            await asyncio.sleep(max(0.0, began + interval_s - self._clock()))

    async def attempt(self) -> None:
        """Run one cycle; a failure is counted, and the next cycle starts afresh."""
        try:
            await self.cycle()
        except (StoreUnavailable, SourceUnavailable) as error:
            self._stats.audit_failures += 1
            if self._proving:  # said once: an outage lasts many intervals
                log.warning("the cache cannot be proven current, reads go to the database: %s", error)
            self._proving = False
        else:
            self._proving = True

    async def cycle(self) -> Cycle | None:
        """Run one cycle; ``None`` when another instance has this interval's claim.

        Raises:
            StoreUnavailable, SourceUnavailable: the cycle ended where it was; nothing was proven.
        """
        began = self._clock()
        claim_ms = max(1, int(self._config.audit_interval_ms * CLAIM_SHARE))
        async with self._open_store() as store:
            begun = await store.begin(claim_ms)
            if begun is None:
                return None
            async with self._open_source() as source:
                announced = await source.announce(begun.server, self._config.fence_ttl_ms, self._config.fence_ttl_max_ms)
                if begun.watermark is not None and begun.watermark.epoch != announced.epoch:
                    # The fence of the old epoch would go on vouching for the past (G4) while this cycle waits or purges.
                    await store.distrust()
                    begun = replace(begun, watermark=None)
                if announced.other_remaining_s > 0:
                    # Another server's fence may live: an instance that still reads there must not meet writers who
                    # take this server's fence for proof.
                    return Cycle(announced.cycle, trusted=False)
                repairs, purged = Repairs(), None
                async with source.snapshot(begun.watermark, self._config.audit_page_rows) as snapshot:
                    known = begun.watermark is not None and begun.watermark.epoch == snapshot.epoch
                    if known:
                        async for rows in snapshot.pages:
                            repairs += await store.verify(snapshot.epoch, rows)
                if not known:
                    purged = await store.purge(claim_ms)
                proven = Watermark(snapshot.epoch, snapshot.xmin)
                trusted = await store.trust(begun, proven, self._config.fence_ttl_ms)
                if trusted:
                    await source.complete(announced.cycle)
        cycle = Cycle(announced.cycle, trusted, repairs, purged)
        self._count(cycle, began)
        return cycle

    def _count(self, cycle: Cycle, began: float) -> None:
        now = self._clock()
        self._stats.audits += 1
        self._stats.audit_duration.observe(now - began)
        self._stats.repairs += cycle.repairs
        if cycle.trusted:
            self._stats.last_audit = now
        if cycle.purged is not None:
            self._stats.purges += 1
            self._stats.purged_slots += cycle.purged
            log.log(
                logging.WARNING if cycle.purged else logging.INFO,
                "no watermark of the database's present epoch: the cache starts clean, %d slots deleted",
                cycle.purged,
            )

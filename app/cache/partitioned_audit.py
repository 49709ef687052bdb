"""The audit of a namespace that is divided into partitions: one cycle for all that an instance can claim.

Each partition goes through the six steps of ``audit`` in order, with a claim, a watermark, a fence and an audit row of its own,
on one connection to its node. The steps of all are taken together: a packet for each node, and the statements of one.

A partition whose node is lost, or refuses it, drops out, and the others go on. Another instance may claim it. One whose
watermark lies far behind the others' starts clean: otherwise all would have to read what changed since then, and every fence
would lapse.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from typing_extensions import override

from .audit import Auditor, AuditPorts, Cycle, mark_of
from .config import CacheConfig
from .errors import StoreUnavailable
from .history import History
from .partition_ports import PartitionsAuditSource, PartitionsAuditStore
from .partitions import Partitions
from .ports import Announced, Begun, Clock, Deferred, Repairs, Snapshot, Watermark
from .stats import Stats

log = logging.getLogger(__name__)

STRAGGLE_ROWS = 10_000
"""Most rows that changed since a partition's watermark and before the newest one, if it is to be compared."""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Progress:
    """What is left of a cycle: the partitions that go on, each as its first step found it."""

    begun: dict[int, Begun]
    failures: dict[int, StoreUnavailable] = field(default_factory=dict)
    repairs: Repairs = field(default_factory=Repairs)

    def keep(self, answers: Mapping[int, Answer | StoreUnavailable]) -> dict[int, Answer]:
        """Drop the partitions that got no answer, and return the other answers."""
        kept: dict[int, Answer] = {}
        for partition, answer in answers.items():
            if isinstance(answer, StoreUnavailable):
                self.failures[partition] = answer
                self.begun.pop(partition, None)
            else:
                kept[partition] = answer
        return kept

    @property
    def counting(self) -> dict[int, Watermark]:
        """The watermarks of the partitions whose slots are compared."""
        return {p: begun.watermark for p, begun in self.begun.items() if begun.counts and begun.watermark is not None}


class PartitionedAudit(Auditor):
    """One process's auditor of a namespace that is divided into partitions."""

    def __init__(
        self,
        open_store: Callable[[], AbstractAsyncContextManager[PartitionsAuditStore]],
        open_source: Callable[[], AbstractAsyncContextManager[PartitionsAuditSource]],
        config: CacheConfig,
        stats: Stats,
        *,
        history: History,
        partitions: Partitions,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(config, stats, history=history, clock=clock)
        self._open_store = open_store
        self._open_source = open_source
        self._partitions = partitions
        self._trouble = ""

    @override
    async def cycle(self, ports: AuditPorts | None = None) -> Cycle | None:
        began = self._clock()
        async with self._open_source() as source, self._open_store() as store:
            if self._is_cautious():
                asked_at = self._clock()
                self._history.record(await source.tell_epoch(), asked_at)
            progress = _Progress({})
            begun = progress.keep(await store.begin(self._claim_ms))
            for one in begun.values():
                if one.watermark is not None:
                    self._history.note_stored(one.watermark.epoch)
            await self._depose(begun, store)
            progress.begun = {partition: one for partition, one in begun.items() if one.claimed}
            cycle: Cycle | None = None
            if progress.begun:
                try:
                    cycle = await self._prove(progress, store, source)
                except StoreUnavailable:
                    raise
                except Exception:
                    self._be_cautious()
                    raise
        self._tell(progress.failures)
        if len(progress.failures) == self._partitions.number:
            raise next(iter(progress.failures.values()))
        if cycle is not None:
            self._count(cycle, began)
        return cycle

    async def _depose(self, begun: Mapping[int, Begun], store: PartitionsAuditStore) -> None:
        """Mark the partitions that others audit, so that an old primary's auditor notices the newer primary."""
        old = [p for p, one in begun.items() if not one.claimed and self._is_of_predecessor(one.watermark)]
        if old:
            await store.distrust(dict.fromkeys(old, Watermark(self._history.epoch, None)))

    async def _prove(self, progress: _Progress, store: PartitionsAuditStore, source: PartitionsAuditSource) -> Cycle:
        cycles, epoch, deferred = await self._announce(progress, source)
        await self._end_other_epoch(progress, epoch, store)
        for partition in [p for p in progress.begun if cycles[p].other_remaining_s + self._config.settle_margin_ms / 1000 > 0]:
            # A fence on another server may be live. While instances still read there, writers must not rely on this one.
            del progress.begun[partition]
        number = max((one.cycle for one in cycles.values()), default=0)
        if not progress.begun:
            return Cycle(number, trusted=False, deferred=deferred)
        await self._drop_stragglers(progress, source)
        limits = self._config.fences
        oldest = min(progress.counting.values(), key=lambda watermark: watermark.xid or 0, default=None)
        async with source.snapshot(oldest, limits, self._config.audit_page_rows) as snapshot:
            self._check_epoch(epoch, snapshot.epoch)
            if snapshot.rival:
                return Cycle(number, trusted=False, deferred=f"namespace {snapshot.rival} is trusted")
            await self._compare(progress, snapshot, store)
        clean = [partition for partition, one in progress.begun.items() if not one.counts]
        answers = await store.trust(progress.begun, Watermark(snapshot.epoch, snapshot.xmin), limits.ttl_ms)
        trusted = [partition for partition, done in progress.keep(answers).items() if done]
        if trusted:
            await source.complete({partition: cycles[partition].cycle for partition in trusted})
        if clean:
            log.info(
                "no audit has compared the data of %d of %d partitions on their present nodes in the database's present epoch:"
                " they start clean",
                len(clean),
                self._partitions.number,
            )
        whole = bool(trusted) and len(trusted) == len(cycles) and not progress.failures
        return Cycle(number, whole, progress.repairs, clean=bool(clean), deferred=deferred)

    async def _announce(self, progress: _Progress, source: PartitionsAuditSource) -> tuple[Mapping[int, Announced], str, str]:
        """Announce the cycle of each partition; return those that were announced, the epoch, and why others were not."""
        asked_at = self._clock()
        answers = await source.announce(
            {partition: begun.server for partition, begun in progress.begun.items()}, self._config.fences
        )
        epoch = next(iter(answers.values())).epoch
        self._history.record(epoch, asked_at)
        announced = {p: answer for p, answer in answers.items() if isinstance(answer, Announced)}
        reasons = [answer.reason for answer in answers.values() if isinstance(answer, Deferred)]
        progress.begun = {partition: progress.begun[partition] for partition in announced}
        return announced, epoch, reasons[0] if reasons else ""

    async def _end_other_epoch(self, progress: _Progress, epoch: str, store: PartitionsAuditStore) -> None:
        """Delete another epoch's fences and replace its watermarks."""
        # If they stayed, readers would trust the old epoch's fence (G4) while this cycle waits.
        old = [p for p, one in progress.begun.items() if one.watermark is not None and one.watermark.epoch != epoch]
        if not old:
            return
        mark = mark_of(epoch)
        for partition in progress.keep(await store.distrust(dict.fromkeys(old, mark))):
            progress.begun[partition] = replace(progress.begun[partition], watermark=mark, counts=False)

    async def _drop_stragglers(self, progress: _Progress, source: PartitionsAuditSource) -> None:
        """Let the partitions start clean whose old watermarks would make the cycle read too many rows."""
        while watermarks := progress.counting:
            oldest = min(watermarks.values(), key=lambda watermark: watermark.xid or 0)
            newest = max(watermarks.values(), key=lambda watermark: watermark.xid or 0)
            if oldest.xid == newest.xid or await source.count_changes(oldest, newest, STRAGGLE_ROWS + 1) <= STRAGGLE_ROWS:
                return
            for partition, watermark in watermarks.items():
                if watermark.xid == oldest.xid:
                    progress.begun[partition] = replace(progress.begun[partition], counts=False)

    async def _compare(self, progress: _Progress, snapshot: Snapshot, store: PartitionsAuditStore) -> None:
        """Compare the changed rows of each partition that has a watermark with its slots."""
        async for rows in snapshot.pages:
            counting = progress.counting
            own: dict[int, Sequence[tuple[str, int]]] = {
                partition: [rows[place] for place in places]
                for partition, places in self._partitions.cut([key for key, _ in rows]).items()
                if partition in counting
            }
            for repairs in progress.keep(await store.verify(snapshot.epoch, own)).values():
                progress.repairs += repairs

    def _tell(self, failures: Mapping[int, StoreUnavailable]) -> None:
        """Log and count that some partitions could not be audited. If no partition could be, the cycle fails instead."""
        trouble = str(next(iter(failures.values()))) if failures else ""
        if trouble and len(failures) < self._partitions.number:
            self._stats.audit_failures += 1
            if trouble != self._trouble:  # logged once: an outage lasts many intervals
                log.warning(
                    "%d of %d partitions cannot be proven current, reads of their keys go to the database: %s",
                    len(failures),
                    self._partitions.number,
                    trouble,
                )
        self._trouble = trouble

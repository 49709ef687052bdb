"""The background work that decides accepted writes, and that measures how many wait."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from app.cache.stats import Stats
from app.postgres.errors import CommitUnknown, DatabaseOverloaded, DatabaseUnavailable, TransactionConflict
from app.products.accepted import AcceptedStats, ApplyFailed
from app.products.decision import Denied, Postponed
from app.products.transaction import Committed
from app.sparse_log import SparseLog

log = logging.getLogger(__name__)

PAUSE_S = 0.1
"""Pause after a transaction that decided nothing."""
MEASURE_S = 0.5
"""Pause between two measurements of the backlog."""

_EXPECTED = (DatabaseUnavailable, DatabaseOverloaded, TransactionConflict, CommitUnknown)

Apply = Callable[[int | None], Awaitable[Committed]]
MarkFailed = Callable[[int, str], Awaitable[bool]]


class Applier:
    """Applies accepted writes until cancelled. Every process has one, and one transaction at a time does the work.

    Args:
        apply: decides the lowest rows in one transaction, or only the row of a number, and publishes.
        mark_failed: marks one row as failed, with the reason; ``False`` if it no longer waits.
        stats: what to count in.
        errors: counts unexpected errors.
    """

    def __init__(self, apply: Apply, mark_failed: MarkFailed, stats: AcceptedStats, errors: Stats) -> None:
        self._apply = apply
        self._mark_failed = mark_failed
        self._stats = stats
        self._errors = errors
        self._log = SparseLog(log)
        self._alone: deque[int] = deque()
        """The rows that are still to be tried alone, because a transaction of several failed."""

    async def run(self) -> None:
        """Apply what waits, with a pause whenever nothing could be decided."""
        while True:
            try:
                busy = await self.apply() > 0 or bool(self._alone)
            except _EXPECTED as error:
                self._log.info("accepted writes could not be applied now, this is tried again: %s", error)
                busy = False
            except Exception:
                self._errors.unexpected += 1
                if (left_out := self._log.take()) is not None:
                    log.exception("accepted writes could not be applied now, this is tried again (%d lines left out)", left_out)
                busy = False
            await asyncio.sleep(0 if busy else PAUSE_S)

    async def apply(self) -> int:
        """Run one transaction; return how many rows it removed or marked. Raises a ``DatabaseError``."""
        only = self._alone.popleft() if self._alone else None
        try:
            committed = await self._apply(only)
        except ApplyFailed as failed:
            if len(failed.seqs) > 1:
                self._alone.extend(failed.seqs)
                return 0
            [seq] = failed.seqs
            if isinstance(failed.__cause__, TransactionConflict | DatabaseOverloaded):
                raise failed.__cause__ from failed
            log.exception("accepted write %d cannot be applied, it is kept and marked as failed", seq)
            marked = await self._mark_failed(seq, str(failed))
            self._stats.failed += marked
            return int(marked)
        return (
            len([None for decision in committed.accepted_decisions if not isinstance(decision, Postponed)]) + committed.failures
        )


def count(stats: AcceptedStats, committed: Committed) -> None:
    """Count what a transaction did with accepted writes."""
    decided = [decision for decision in committed.accepted_decisions if not isinstance(decision, Postponed)]
    refused = sum(isinstance(decision, Denied) for decision in decided)
    stats.applied += len(decided)
    stats.refused += refused
    if committed.failures:
        stats.failed += committed.failures
        log.error("%d accepted writes cannot be applied, they are kept and marked as failed", committed.failures)


async def keep_measured(measure: Callable[[], Awaitable[None]], errors: Stats, pause_s: float = MEASURE_S) -> None:
    """Measure the backlog until cancelled. An outage is logged once; every unexpected error is counted in ``errors``."""
    failing = False
    while True:
        try:
            await measure()
            failing = False
        except Exception as error:
            expected = isinstance(error, _EXPECTED)
            errors.unexpected += not expected
            if not failing:
                log.log(
                    logging.INFO if expected else logging.ERROR,
                    "the backlog of accepted writes could not be measured now, this is tried again: %s",
                    error,
                    exc_info=None if expected else error,
                )
            failing = True
        await asyncio.sleep(pause_s)

"""Settling: when a committed write whose publish was not proven may be acknowledged (R4).

It may be acknowledged as soon as one of these holds:

- In every namespace of the table, one of two things has happened. Either an audit that was announced after the commit has
  completed, so every slot was compared with what was committed. Or all fences have expired that were announced before the
  audit rows were first read after the commit; audits announced later include the commit.
- The largest fence TTL of the fleet has passed since the commit, on this process's own clock. This needs no database.

A write to a namespace that is divided into partitions waits for those in which its publish was not proven, and not for their
siblings: with one row for all, the audits of live nodes would make writes to a dead one wait for the whole TTL each time.

No connection is held while waiting. One poller reads the audit rows for all waiters of the process. A reading counts only for
waiters that came before it was sent.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import CacheConfig
from .errors import NotSettled, Overloaded, SourceUnavailable
from .history import History
from .ports import AuditProgress, AuditRow, Clock, HistorySource
from .stats import Stats

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A namespace whose readers may see old data until an audit after ``announced`` completes, or until ``until``."""

    announced: int
    until: float


@dataclass(slots=True, eq=False)
class _Waiter:
    until: float
    """When all fences of audits that do not include the commit have expired, on the process's own clock."""
    done: "asyncio.Future[None]"
    rows: frozenset[str] | None = None
    """The audit rows of the own namespace that matter; ``None`` for all."""
    pending: dict[str, _Pending] | None = None
    """The namespaces to wait for, as the first reading after the commit found them; ``None`` before that reading."""


class Settler:
    """Waits for all unproven writes of one process, with one poller.

    ``own`` are the audit rows of the namespace's partitions, if it has some.
    """

    def __init__(
        self,
        source: HistorySource,
        config: CacheConfig,
        stats: Stats,
        history: History,
        clock: Clock,
        *,
        own: Collection[str] = (),
    ) -> None:
        self._own = frozenset(own)
        self._source = source
        self._config = config
        self._margin_s = config.settle_margin_ms / 1000
        self._stats = stats
        self._history = history
        self._clock = clock
        self._waiters: dict[_Waiter, None] = {}
        self._arrival = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    async def settle(self, committed_at: float, rows: frozenset[str] | None = None) -> None:
        """Wait until a write committed by ``committed_at`` may be acknowledged.

        Args:
            committed_at: when the commit's answer had arrived.
            rows: the audit rows of the namespace's partitions in which the write is not proven; ``None`` for all.

        Raises:
            NotSettled: the deadline passed first, or too many writes wait already; the write stays committed.
        """
        if len(self._waiters) >= self._config.queue_limit:
            raise NotSettled("the write is committed, but too many writes wait to be proven visible to every reader")
        began = self._clock()
        self._stats.settles += 1
        until = committed_at + self._config.fence_ttl_max_ms / 1000 + self._margin_s
        waiter = _Waiter(until, asyncio.get_running_loop().create_future(), rows)
        self._waiters[waiter] = None
        self._arrival.set()
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(self._config.settle_timeout_ms / 1000):
                await self._wait(waiter)
        except TimeoutError as error:
            self._stats.settle_timeouts += 1
            raise NotSettled("the write is committed, but not yet proven visible to every reader") from error
        finally:
            self._waiters.pop(waiter, None)
            self._stats.settle_wait.observe(self._clock() - began)

    async def aclose(self) -> None:
        """Stop the poller. Writes that still wait are never acknowledged."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _wait(self, waiter: _Waiter) -> None:
        """Wait until the poller ends the wait, or until the waiter's time has passed even if the poller's reading hangs."""
        while not waiter.done.done() and (left_s := waiter.until - self._clock()) > 0:
            await asyncio.wait({waiter.done}, timeout=left_s)

    async def _poll(self) -> None:
        try:
            while self._waiters:
                self._arrival.clear()
                present = list(self._waiters)
                self._end_waits(present, await self._read_progress(present))
                if self._waiters:
                    await self._pause()
        finally:
            self._poller = None

    async def _read_progress(self, present: Sequence[_Waiter]) -> AuditProgress | None:
        """Return the audit rows of the present epoch, or ``None`` if they cannot be read now."""
        try:
            progress = await self._ask(self._source.standing())
            if self._lacks_rows(progress, present):
                # No audit was announced in this epoch, so no row shows fences of another epoch that are still live. Announce
                # the worst case instead: otherwise, while the store is down, every write would wait for the largest TTL.
                self._stats.adoptions += 1
                progress = await self._ask(self._source.adopt(self._config.fence_ttl_max_ms))
                if self._lacks_rows(progress, present):  # yet another epoch has begun meanwhile
                    return None
        except (SourceUnavailable, Overloaded):
            return None
        except Exception:
            self._stats.unexpected += 1
            log.exception("the audit rows could not be read: writes that settle wait until every fence has expired")
            return None
        return progress

    def _lacks_rows(self, progress: AuditProgress, present: Sequence[_Waiter]) -> bool:
        """Return whether fences of another epoch may live in a partition that somebody waits for, and no row would show it.

        The first cycle of an epoch waits until none can live, but it waits in its own partition alone. If another namespace had
        a cycle in this epoch, it waited for all, because none of these partitions was announced meanwhile.
        """
        if any(name not in self._own for name in progress.rows):
            return False
        return not progress.rows or any(not (waiter.rows or self._own) <= progress.rows.keys() for waiter in present)

    async def _ask(self, question: Coroutine[Any, Any, AuditProgress]) -> AuditProgress:
        asked_at = self._clock()
        progress = await question
        self._history.record(progress.epoch, asked_at)
        return progress

    def _end_waits(self, present: Sequence[_Waiter], progress: AuditProgress | None) -> None:
        now = self._clock()
        for waiter in present:
            if progress is not None and progress.rows:
                self._update(waiter, progress.rows, now)
            if now >= waiter.until or waiter.pending == {}:
                self._waiters.pop(waiter, None)
                if not waiter.done.done():
                    waiter.done.set_result(None)

    def _update(self, waiter: _Waiter, rows: Mapping[str, AuditRow], now: float) -> None:
        if waiter.pending is None:
            waiter.pending = {
                name: _Pending(row.announced, now + max(0.0, row.remaining_s + self._margin_s))
                for name, row in rows.items()
                if waiter.rows is None or name in waiter.rows or name not in self._own
            }
        waiter.pending = {
            name: pending
            for name, pending in waiter.pending.items()
            if now < pending.until and not (name in rows and rows[name].completed > pending.announced)
        }
        waiter.until = min(waiter.until, max((pending.until for pending in waiter.pending.values()), default=now))

    async def _pause(self) -> None:
        """Sleep until the next reading is due, a waiter's time has passed, or a new waiter has come."""
        nearest_s = max(0.0, min(waiter.until for waiter in self._waiters) - self._clock())
        try:
            async with asyncio.timeout(min(self._config.settle_poll_ms / 1000, nearest_s)):
                await self._arrival.wait()
        except TimeoutError:
            return

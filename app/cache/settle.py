"""Settling: when a committed write may be acknowledged although its publish was not proven (R4).

As soon as one of these holds, whichever is first:

- an audit that was announced after the commit has completed: it compared every slot with what was committed before it;
- every fence announced before a look at the audit row that came after the commit has lapsed: nobody trusts the cache.
  Fences announced later are of audits that see the commit;
- the largest fence TTL of the fleet has passed since the commit, on this process's own clock: needs no database.

No connection is held while waiting, and one poller asks for all waiters of the process. Only waiters who were there before
a look was sent are judged by it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from app.cache.config import CacheConfig
from app.cache.errors import NotSettled, Overloaded, SourceUnavailable
from app.cache.ports import Clock, Source, Standing
from app.cache.stats import Stats


@dataclass(slots=True, eq=False)
class _Waiter:
    until: float
    """On the process's own clock: when no fence can be live that was set without knowing of the commit."""
    done: "asyncio.Future[None]"
    announced: int | None = None
    """The newest audit announced when the row was first read after the commit."""


class Settler:
    """Waits for all unproven writes of one process, with one poller."""

    def __init__(self, source: Source, config: CacheConfig, stats: Stats, clock: Clock) -> None:
        self._source = source
        self._config = config
        self._stats = stats
        self._clock = clock
        self._waiters: list[_Waiter] = []
        self._arrival = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    async def settle(self, committed_at: float) -> None:
        """Wait until a write committed by ``committed_at`` may be acknowledged.

        Raises:
            NotSettled: the deadline passed first; the write stays committed.
        """
        began = self._clock()
        self._stats.settles += 1
        waiter = _Waiter(
            committed_at + (self._config.fence_ttl_max_ms + self._config.settle_margin_ms) / 1000,
            asyncio.get_running_loop().create_future(),
        )
        self._waiters.append(waiter)
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
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            self._stats.settle_wait.observe(self._clock() - began)

    async def aclose(self) -> None:
        """Stop the poller; whoever still waits is never acknowledged."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _wait(self, waiter: _Waiter) -> None:
        """Wait until the poller says so or the waiter's own time is over: a look that hangs must not delay that."""
        while not waiter.done.done() and (left_s := waiter.until - self._clock()) > 0:
            await asyncio.wait({waiter.done}, timeout=left_s)

    async def _poll(self) -> None:
        try:
            while self._waiters:
                self._arrival.clear()
                asked = list(self._waiters)
                standing = await self._look()
                self._judge(asked, standing)
                if self._waiters:
                    await self._pause()
        finally:
            self._poller = None

    async def _look(self) -> Standing | None:
        try:
            standing = await self._source.standing()
            if standing.audited_epoch != standing.epoch:
                # Nobody announced fences in this epoch, so the row says nothing of those still alive from another one.
                # Announce the worst in their place; else, with the store down, every write would wait the largest TTL.
                self._stats.adoptions += 1
                standing = await self._source.adopt(self._config.fence_ttl_max_ms)
        except (SourceUnavailable, Overloaded):
            return None
        return standing if standing.audited_epoch == standing.epoch else None

    def _judge(self, asked: Sequence[_Waiter], standing: Standing | None) -> None:
        now = self._clock()
        for waiter in asked:
            completed = False
            if standing is not None:
                if waiter.announced is None:
                    waiter.announced = standing.announced
                    lapse = now + standing.remaining_s
                    if standing.remaining_s > 0:
                        lapse += self._config.settle_margin_ms / 1000
                    waiter.until = min(waiter.until, lapse)
                completed = standing.completed > waiter.announced
            if (completed or now >= waiter.until) and not waiter.done.done():
                waiter.done.set_result(None)
        self._waiters = [waiter for waiter in self._waiters if not waiter.done.done()]

    async def _pause(self) -> None:
        """Sleep until the next look is due, a waiter's time is over, or a new waiter came."""
        nearest_s = max(0.0, min(waiter.until for waiter in self._waiters) - self._clock())
        try:
            async with asyncio.timeout(min(self._config.settle_poll_ms / 1000, nearest_s)):
                await self._arrival.wait()
        except TimeoutError:
            return

"""When each request is due.

With a rate, request number i is due i/rate seconds after the start, whatever became of those before it, and its latency
counts from that moment: when the service stalls, requests that could not be sent in time count their waiting, as the
customers in whose place they stand would have. (Counting from the sending instead leaves out just the slow moments;
that is known as coordinated omission.) Without a rate, a request is due when a client is free.
"""

import time
from collections.abc import Callable

from app.importer.retry import Stopping


class Pace:
    """The schedule of one run; it starts with the first turn."""

    def __init__(self, rate_per_s: float | None, stopping: Stopping, now_s: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._stopping = stopping
        self._now_s = now_s
        self._start_s: float | None = None

    async def turn(self, number: int) -> float | None:
        """Wait until request `number` (from 0) is due; the moment, in seconds of `now_s`. None: the replay is stopping."""
        now_s = self._now_s()
        if self._start_s is None:
            self._start_s = now_s
        if self._rate_per_s is None:
            return now_s
        due_s = self._start_s + number / self._rate_per_s
        if due_s > now_s and not await self._stopping.wait_ms((due_s - now_s) * 1000):
            return None
        return due_s

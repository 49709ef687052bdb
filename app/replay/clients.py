"""Several clients at once: each takes the next request of the file when it is free, and sees it through.

Requests are begun in the order of the file and may end in any. A client that is retrying holds up nobody else.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

from app.importer.errors import GivenUp, ImportStopped
from app.importer.retry import Stopping
from app.replay.adjustments import Adjustment
from app.replay.pace import Pace
from app.replay.refusals import RefusalLog
from app.replay.report import ProgressDisplay, Tally
from app.replay.sender import AdjustmentSender, NotAccepted

Numbered = tuple[int, Adjustment]
"""A repetition (from 1) and a request of it."""


class Clients:
    """One run: `count` clients until there is nothing left to send, or until told to stop."""

    def __init__(
        self,
        sender: AdjustmentSender,
        *,
        count: int,
        run_id: str,
        pace: Pace,
        stopping: Stopping,
        refusals: RefusalLog,
        tally: Tally,
        progress: ProgressDisplay,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sender = sender
        self._count = count
        self._run_id = run_id
        self._pace = pace
        self._stopping = stopping
        self._refusals = refusals
        self._tally = tally
        self._progress = progress
        self._now_s = now_s
        self._failure: Exception | None = None

    async def run(self, requests: Iterator[Numbered]) -> None:
        """Send them all. Errors: `ImportStopped`, the first that occurred, after what was under way has ended."""
        numbered = enumerate(requests)
        async with asyncio.TaskGroup() as clients:
            for _ in range(self._count):
                clients.create_task(self._client(numbered))
        if self._failure is not None:
            raise self._failure

    async def _client(self, requests: Iterator[tuple[int, Numbered]]) -> None:
        try:
            while not self._stopping.requested:
                # Taken and timed without a pause in between, so that the schedule keeps to the order of the file.
                following = next(requests, None)
                if following is None:
                    return
                number, (repetition, adjustment) = following
                due_s = await self._pace.turn(number)
                if due_s is None:
                    return
                await self._send(adjustment, repetition, due_s)
        except ImportStopped as error:
            # The others end what they have under way. What they give up then is a consequence, not the cause.
            if self._failure is None or isinstance(self._failure, GivenUp):
                self._failure = error
            self._stopping.request()

    async def _send(self, adjustment: Adjustment, repetition: int, due_s: float) -> None:
        try:
            answer = await self._sender.send(adjustment, adjustment.key(self._run_id, repetition))
        except BaseException as error:
            # Dropped by a second Ctrl-C, too: whoever adds up the units must know what is not known.
            self._tally.unknown += 1
            reason = str(error) or "dropped before there was an answer"
            self._refusals.add(adjustment, repetition, "unknown", status=None, problem=reason)
            raise
        self._tally.answered(adjustment, answer, int((self._now_s() - due_s) * 1_000_000))
        self._tally.retries = self._sender.retries
        if isinstance(answer, NotAccepted):
            self._refusals.add(adjustment, repetition, "refused", status=answer.status, problem=answer.problem)
        self._progress.update(self._tally)

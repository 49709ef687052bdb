"""Chunks through the sender: several at once, their results taken up in the order of the file.

Taking them in order keeps the list of refused rows sorted and the progress honest: what it shows as done is done
without gaps. A chunk that is slow (it is being retried) holds the others up only after they are a window ahead.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from operator import attrgetter

from app.importer.chunks import Chunk
from app.importer.errors import GivenUp, ImportStopped
from app.importer.report import ProgressDisplay, RefusedList, Tally
from app.importer.retry import Stopping
from app.importer.rows import Refusal
from app.importer.sender import BatchSender, Result

WINDOW_PER_CONNECTION = 4
"""Chunks read ahead of the oldest one that is not answered, for each connection."""


class ImportFlow:
    """One run over one file."""

    def __init__(
        self,
        sender: BatchSender,
        *,
        concurrency: int,
        stopping: Stopping,
        refused: RefusedList,
        tally: Tally,
        progress: ProgressDisplay,
    ) -> None:
        self._sender = sender
        self._connections = asyncio.Semaphore(concurrency)
        self._window_chunks = concurrency * WINDOW_PER_CONNECTION
        self._stopping = stopping
        self._refused = refused
        self._tally = tally
        self._progress = progress
        self._window: deque[tuple[Chunk, asyncio.Task[list[Result]]]] = deque()

    async def run(self, chunks: Iterable[Chunk]) -> None:
        """Import the chunks, until their end or until told to stop; every outcome that is known is reported.

        Errors: `ImportStopped`, the first that occurred, after what was under way has ended.
        """
        failure: ImportStopped | None = None
        try:
            try:
                await self._read_and_send(chunks)
            except ImportStopped as error:
                self._stopping.request()
                failure = error
            failure = await self._drain(failure)
        finally:
            await self._abandon()
        if failure is not None:
            raise failure

    async def _read_and_send(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            if self._stopping.requested:
                return
            self._window.append((chunk, asyncio.create_task(self._send(chunk))))
            # Lets answers in and stops be noticed: reading itself never waits.
            await asyncio.sleep(0)
            while self._window and (len(self._window) >= self._window_chunks or self._window[0][1].done()):
                await self._settle_oldest()

    async def _drain(self, failure: ImportStopped | None) -> ImportStopped | None:
        while self._window:
            try:
                await self._settle_oldest()
            except ImportStopped as error:
                # A chunk that was given up is the consequence of a failure further on, not one itself.
                if failure is None or isinstance(failure, GivenUp):
                    failure = error
        return failure

    async def _settle_oldest(self) -> None:
        chunk, task = self._window[0]
        try:
            results = await task
        finally:
            # Not before: when this is cancelled, the task has to be among those that are ended.
            if task.done():
                self._window.popleft()
        refusals = [
            *chunk.refusals,
            *(
                Refusal(row.line, row.id, result.reason or "refused without a reason")
                for row, result in zip(chunk.rows, results, strict=True)
                if result.outcome == "refused"
            ),
        ]
        self._tally.add(results, len(chunk.refusals))
        self._refused.add(sorted(refusals, key=attrgetter("line")))
        self._progress.advance_to(chunk.position, self._tally)

    async def _send(self, chunk: Chunk) -> list[Result]:
        if not chunk.rows:
            return []
        async with self._connections:
            if self._stopping.requested:
                raise GivenUp("not sent")
            try:
                return await self._sender.send(chunk.rows)
            except ImportStopped:
                # At once, not when it is this chunk's turn: the others should not wait out their retries.
                self._stopping.request()
                raise

    async def _abandon(self) -> None:
        """Only on cancellation is anything left here: end it, so that no task outlives the run."""
        for _, task in self._window:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._window), return_exceptions=True)
        self._window.clear()

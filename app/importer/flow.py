"""The flow of an import: several batches are sent at once, and their results are reported in the order of the file.

The list of rejected rows is therefore sorted, and all rows before the position that the progress shows are done. A batch that
is being retried delays the others only when they are a whole window ahead of it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from operator import attrgetter

from app.importer.batches import Batch
from app.importer.errors import GivenUp, ImportStopped
from app.importer.posting import Poster
from app.importer.report import Progress, RejectedFile
from app.importer.rows import Rejected
from app.importer.sender import Outcome, Result, send_rows
from app.importer.stopping import StopFlag

WINDOW_PER_CONNECTION = 4
"""Batches per connection that are read ahead of the oldest unanswered one."""


@dataclass(slots=True)
class ImportFlow:
    """The import of one file."""

    poster: Poster
    stop: StopFlag
    rejected: RejectedFile
    counts: Counter[Outcome]
    progress: Progress
    _failure: ImportStopped | None = field(default=None, init=False)

    async def run(self, batches: Iterable[Batch]) -> None:
        """Import the batches until their end or until the flag is set. Every known result is reported.

        Raises:
            ImportStopped: the first failure, after the requests under way have ended.
        """
        window_batches = self.poster.connections * WINDOW_PER_CONNECTION
        window = deque[tuple[Batch, asyncio.Task[list[Result] | None]]]()
        # A task raises nothing but a cancellation, so the group cancels the tasks only when ``run`` itself is cancelled.
        async with asyncio.TaskGroup() as tasks:
            with self._stop_at_failure():
                for batch in takewhile(lambda _: not self.stop.is_set(), batches):
                    window.append((batch, tasks.create_task(self._send(batch))))
                    # Reading itself never waits, so this pause lets answers arrive and stops be noticed.
                    await asyncio.sleep(0)
                    while window and (len(window) >= window_batches or window[0][1].done()):
                        oldest, sending = window.popleft()
                        self._report(oldest, await sending)
            for oldest, sending in window:
                self._report(oldest, await sending)
        if self._failure is not None:
            raise self._failure

    async def _send(self, batch: Batch) -> list[Result] | None:
        """Return the results of the rows, or ``None`` when they are not known."""
        if not batch.rows:
            return []
        # A failure stops the import at once, not when this batch is reported, so that the other batches end their retries.
        with self._stop_at_failure(), suppress(GivenUp):
            return await send_rows(self.poster, batch.rows)
        return None

    def _report(self, batch: Batch, results: list[Result] | None) -> None:
        if results is None:
            return
        rejected = batch.rejected + [
            Rejected(row.line, row.id, result.reason or "refused without a reason")
            for row, result in zip(batch.rows, results, strict=True)
            if result.outcome == "refused"
        ]
        self.counts.update(result.outcome for result in results)
        self.counts["refused"] += len(batch.rejected)
        with self._stop_at_failure():
            self.rejected.add(sorted(rejected, key=attrgetter("line")))
        self.progress.advance_to(batch.position, self.counts)

    @contextmanager
    def _stop_at_failure(self) -> Iterator[None]:
        """Stop the import at a failure. Only the first failure is raised, at the end."""
        try:
            yield
        except ImportStopped as error:
            self._failure = self._failure or error
            self.stop.set()

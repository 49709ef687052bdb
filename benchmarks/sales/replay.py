"""Every invoice of a file, each done once however often its requests have to be sent.

Every try of a request carries the same idempotency key, so a try whose answer was lost may be repeated.

| answer | what is done |
|---|---|
| 200 with the lines that were sent | accepted |
| what ``app.importer.posting`` repeats | tried again with the same key |
| 400, 404 that names the missing products, 409, 412, 413, 422 | refused: listed, and the replay goes on |
| everything else | the replay stops: the next invoice would fare no better |

Invoices are begun in the order of the file and may end in any. With a rate, request number *i* is due *i*/rate seconds
after the start, whatever became of those before it, and its latency counts from that moment: when the service stalls,
requests that could not be sent in time count their waiting, as the customers in whose place they stand would have.
(Counting from the sending leaves out just the slow moments: coordinated omission.) Without a rate a request is due when a
client is free.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.importer.errors import GivenUp, ImportStopped
from app.importer.posting import Poster
from app.importer.retry import RetryPolicy
from app.importer.stopping import StopFlag
from benchmarks.sales.adjustments import Adjustments
from benchmarks.sales.invoices import Invoice
from benchmarks.sales.runlog import RunLog
from benchmarks.sales.session import Deed, Session
from benchmarks.steady.percentiles import percentile

ALL_ACCEPTED = 0
SOME_REFUSED = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130


@dataclass(slots=True)
class Replay:
    """One run over the invoices of a file: ``clients`` at once, until there is nothing left to send, or a signal."""

    invoices: Sequence[Invoice]
    url: str
    refused_path: Path
    run_id: str
    retry: RetryPolicy
    clients: int = 8
    repeat: int = 1
    rate_per_s: float | None = None
    timeout_s: float = 10
    json: bool = False
    deed: Deed = field(default_factory=Adjustments)
    stop: StopFlag = field(default_factory=StopFlag)
    counts: Counter[str] = field(default_factory=Counter)
    _latencies_s: list[float] = field(default_factory=list)
    _started_s: float = 0
    _silent_until_s: float = 0
    _failure: ImportStopped | None = None

    async def run(self) -> int:
        """Send them all; the exit status. Progress goes to stderr, the summary to stdout.

        Ctrl-C (or SIGTERM) once: requests under way are finished and counted. Twice: they are dropped.
        """
        options: dict[str, Any] = {"retry": self.retry, "stop": self.stop, "notify": self._notice}
        try:
            async with Poster(self.url, connections=self.clients, timeout_s=self.timeout_s, **options) as poster:
                with RunLog(self.refused_path, self.run_id) as refusals:
                    session = Session(poster, refusals, self.run_id, self.counts)
                    self._started_s = time.monotonic()
                    with self.stop.set_by_signals(lambda: _say("Stopping: waiting for the requests under way.")):
                        requests = enumerate(self._requests())
                        async with asyncio.TaskGroup() as tasks:
                            for _ in range(self.clients):
                                tasks.create_task(self._client(requests, session))
                    self._summarize(poster)
            if self._failure is not None:
                raise self._failure
        except ImportStopped as error:
            _say(f"replay: {error}\nTo go on, run the same command with --run-id {self.run_id}.")
            return COULD_NOT_RUN
        if self.stop.interrupted:
            _say(f"Interrupted. To go on, run the same command with --run-id {self.run_id}.")
            return INTERRUPTED
        return SOME_REFUSED if self.counts["refused"] else ALL_ACCEPTED

    def _requests(self) -> Iterator[tuple[int, Invoice]]:
        for repetition in range(1, self.repeat + 1):
            for invoice in self.invoices:
                yield repetition, invoice

    async def _client(self, requests: Iterator[tuple[int, tuple[int, Invoice]]], session: Session) -> None:
        """Take the next request when free, and see it through."""
        while not self.stop.is_set() and (following := next(requests, None)):
            number, (repetition, invoice) = following
            due_s = now_s = time.monotonic()
            if self.rate_per_s is not None:
                due_s = self._started_s + number / self.rate_per_s
                if due_s > now_s and not await self.stop.wait_ms((due_s - now_s) * 1000):
                    return
            try:
                await self.deed.do(invoice, repetition, session)
                self._latencies_s.append(time.monotonic() - due_s)
            except BaseException as error:
                # Also when dropped by a second Ctrl-C: whoever adds up the units must know what is not known.
                self.counts["unknown"] += 1
                reason = str(error) or "dropped before there was an answer"
                session.refusals.add(invoice, repetition, outcome="unknown", status=None, problem=reason)
                if not isinstance(error, ImportStopped):
                    raise
                # What others give up then is a consequence, not the cause.
                if not isinstance(error, GivenUp):
                    self._failure = self._failure or error
                self.stop.set()
            self._show_progress()

    def _notice(self, message: str) -> None:
        """One message in a second: an outage strikes every client at once."""
        if time.monotonic() >= self._silent_until_s:
            self._silent_until_s = time.monotonic() + 1
            _say(message)

    def _show_progress(self) -> None:
        """A line for each tenth of the requests."""
        tenth, done = max(1, len(self.invoices) * self.repeat // 10), len(self._latencies_s)
        if done and done % tenth == 0:
            _say(f"{done:,} requests: {self.counts['accepted']:,} accepted, {self.counts['refused']:,} refused")

    def _summarize(self, poster: Poster) -> None:
        elapsed_s, ordered = time.monotonic() - self._started_s, sorted(self._latencies_s)
        marks = {f"p{percent}_ms": round(percentile(ordered, percent) * 1000, 1) for percent in (50, 95, 99, 100) if ordered}
        summary = {
            "run_id": self.run_id,
            **{name: self.counts[name] for name in self.deed.counted},
            "retries": poster.retries,
            "elapsed_s": round(elapsed_s, 3),
            "requests_per_s": round(len(ordered) / elapsed_s, 1),
            "latency_from": "sending" if self.rate_per_s is None else "schedule",
            **marks,
        }
        print(
            json.dumps(summary) if self.json else "\n".join(f"{name}: {value}" for name, value in summary.items()), flush=True
        )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

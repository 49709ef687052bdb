"""Each invoice as one adjustment of stocks, booked once however often it has to be sent.

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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from app.importer.errors import GivenUp, ImportStopped
from app.importer.posting import Poster, json_of
from app.importer.retry import RetryPolicy
from app.importer.stopping import StopFlag
from benchmarks.sales.invoices import Invoice
from benchmarks.steady.percentiles import percentile

ALL_ACCEPTED = 0
SOME_REFUSED = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130

_REFUSED_STATUSES = frozenset({400, 409, 412, 413, 422})
_MARK = b'{"replay_run": '
_SHOWN_CHARS = 500


class RefusalLog:
    """A file of JSON lines: a request that was refused, or whose fate is unknown, on each. Without such a request, no file.

    Raises:
        ImportStopped: a file of that name holds anything else, or it cannot be written.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self._path = path
        self._run_id = run_id
        self._empty = True
        try:
            if path.exists() and not (path.is_file() and path.read_bytes()[: len(_MARK)] in {b"", _MARK}):
                raise ImportStopped(
                    f"{path} exists and is no list of refusals, so it is left alone. Name another with --refused."
                )
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ImportStopped(f"Cannot write the list of refusals to {path}: {error.strerror or error}") from error

    def add(self, invoice: Invoice, repetition: int, outcome: str, status: int | None, problem: object) -> None:
        """Append a request, and hand it to the operating system: it survives the end of this process."""
        self._empty = False
        entry = {
            # First, as the mark by which a later run knows that the file may be replaced.
            "replay_run": self._run_id,
            "repetition": repetition,
            "invoice": invoice.number,
            "part": invoice.part,
            "first_line": invoice.lines[0].line,
            "last_line": invoice.lines[-1].line,
            "outcome": outcome,
            "status": status,
            "problem": problem,
        }
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._file.close()
        if self._empty:
            self._path.unlink(missing_ok=True)


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
                with RefusalLog(self.refused_path, self.run_id) as refusals:
                    self._started_s = time.monotonic()
                    with self.stop.set_by_signals(lambda: _say("Stopping: waiting for the requests under way.")):
                        requests = enumerate(self._requests())
                        async with asyncio.TaskGroup() as tasks:
                            for _ in range(self.clients):
                                tasks.create_task(self._client(requests, poster, refusals))
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

    async def _client(self, requests: Iterator[tuple[int, tuple[int, Invoice]]], poster: Poster, refusals: RefusalLog) -> None:
        """Take the next request when free, and see it through."""
        while not self.stop.is_set() and (following := next(requests, None)):
            number, (repetition, invoice) = following
            due_s = now_s = time.monotonic()
            if self.rate_per_s is not None:
                due_s = self._started_s + number / self.rate_per_s
                if due_s > now_s and not await self.stop.wait_ms((due_s - now_s) * 1000):
                    return
            try:
                await self._send(invoice, repetition, poster, refusals)
                self._latencies_s.append(time.monotonic() - due_s)
            except BaseException as error:
                # Also when dropped by a second Ctrl-C: whoever adds up the units must know what is not known.
                self.counts["unknown"] += 1
                refusals.add(invoice, repetition, "unknown", None, str(error) or "dropped before there was an answer")
                if not isinstance(error, ImportStopped):
                    raise
                # What others give up then is a consequence, not the cause.
                if not isinstance(error, GivenUp):
                    self._failure = self._failure or error
                self.stop.set()
            self._show_progress()

    async def _send(self, invoice: Invoice, repetition: int, poster: Poster, refusals: RefusalLog) -> None:
        """Send it until there is an answer, and count that. Raises as ``Poster.post`` does; sending it again is safe."""
        key = invoice.key(self.run_id, repetition)
        response = await poster.post("stock/adjustments", invoice.body(), what=str(invoice), key=key)
        status, answer = response.status_code, json_of(response)
        if status == httpx.codes.OK:
            # Something else may answer 200 to anything: units that it did not book must not be counted as sold.
            if _booked(answer) != invoice.deltas:
                raise ImportStopped(f"{poster.shown_url} answered 200 to {invoice}, but not with the lines that were sent.")
            self.counts["accepted"] += 1
            self.counts["lines"] += len(invoice.lines)
            self.counts["taken_units"] += invoice.taken_units
            self.counts["returned_units"] += invoice.returned_units
        elif status in _REFUSED_STATUSES or (
            status == httpx.codes.NOT_FOUND and isinstance(answer, dict) and "missing" in answer
        ):
            self.counts["refused"] += 1
            shown = response.text[:_SHOWN_CHARS] if answer is None else answer
            refusals.add(invoice, repetition, "refused", status, shown)
        else:
            raise poster.stopped_by(response, str(invoice))
        self.counts["replays"] += response.headers.get("Idempotent-Replayed") == "true"

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
        names = ("accepted", "refused", "unknown", "replays", "lines", "taken_units", "returned_units")
        summary = {
            "run_id": self.run_id,
            **{name: self.counts[name] for name in names},
            "retries": poster.retries,
            "elapsed_s": round(elapsed_s, 3),
            "requests_per_s": round(len(ordered) / elapsed_s, 1),
            "latency_from": "sending" if self.rate_per_s is None else "schedule",
            **marks,
        }
        print(
            json.dumps(summary) if self.json else "\n".join(f"{name}: {value}" for name, value in summary.items()), flush=True
        )


def _booked(answer: Any) -> list[dict[str, Any]] | None:
    """The lines of an answer as they would have been sent, or None."""
    try:
        return [{"product_id": line["product_id"], "delta": line["delta"]} for line in answer["lines"]]
    except (KeyError, TypeError):
        return None


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

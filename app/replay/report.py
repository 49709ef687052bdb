"""What a replay tells: counts, latencies, progress."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from app.importer.report import print_plain
from app.replay.adjustments import Adjustment
from app.replay.latency import Latencies
from app.replay.sender import Accepted, NotAccepted

_PLAIN_STEP_PERCENT = 10
_NOTICE_EVERY_S = 1.0


@dataclass(slots=True)
class Tally:
    """What became of the requests that have an answer, and how many have none."""

    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    """Sent, and ended without an answer: done or not."""
    replays: int = 0
    """Answers that the service gave again: it had done, or refused, the request on an earlier try or run."""
    retries: int = 0
    lines: int = 0
    """Lines of the accepted requests, as are the units."""
    taken_units: int = 0
    returned_units: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def answered(self, adjustment: Adjustment, answer: Accepted | NotAccepted, latency_us: int) -> None:
        """Count a request that was answered so long after it was due."""
        self.latencies.add(latency_us)
        self.replays += answer.replayed
        if isinstance(answer, NotAccepted):
            self.refused += 1
            return
        self.accepted += 1
        self.lines += len(adjustment.lines)
        self.taken_units += adjustment.taken_units
        self.returned_units += adjustment.returned_units

    @property
    def done(self) -> int:
        """Requests that have an answer."""
        return self.accepted + self.refused

    def text(self) -> str:
        """The counts on one line."""
        return f"{self.accepted:,} accepted, {self.refused:,} refused, {self.replays:,} replays, {self.retries:,} retries"


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers: the closing words, for people or as JSON."""

    run_id: str
    tally: Tally
    elapsed_s: float
    paced: bool

    def as_json(self) -> dict[str, str | int | float]:
        """The numbers by name, units in the names."""
        tally, latencies = self.tally, self.tally.latencies
        return {
            "run_id": self.run_id,
            "requests": tally.done,
            "accepted": tally.accepted,
            "refused": tally.refused,
            "unknown": tally.unknown,
            "replays": tally.replays,
            "retries": tally.retries,
            "lines": tally.lines,
            "taken_units": tally.taken_units,
            "returned_units": tally.returned_units,
            "elapsed_s": round(self.elapsed_s, 3),
            "requests_per_s": round(self._per_s(tally.done), 1),
            "lines_per_s": round(self._per_s(tally.lines), 1),
            "latency_from": "schedule" if self.paced else "sending",
            "p50_ms": latencies.percentile_us(50) / 1000,
            "p95_ms": latencies.percentile_us(95) / 1000,
            "p99_ms": latencies.percentile_us(99) / 1000,
            "max_ms": latencies.max_us / 1000,
        }

    def text(self) -> str:
        """The numbers on a few lines."""
        tally, latencies = self.tally, self.tally.latencies
        marks = ", ".join(
            f"{name} {us / 1000:,.1f} ms"
            for name, us in [
                *((f"p{percent}", latencies.percentile_us(percent)) for percent in (50, 95, 99)),
                ("max", latencies.max_us),
            ]
        )
        since = "the scheduled moment" if self.paced else "the first try"
        unknown = f"unknown   {tally.unknown:,} requests ended without an answer\n" if tally.unknown else ""
        return (
            f"requests  {tally.done:,} in {self.elapsed_s:,.1f} s, {self._per_s(tally.done):,.1f}/s: {tally.text()}\n"
            f"accepted  {tally.lines:,} lines, {self._per_s(tally.lines):,.1f}/s: "
            f"{tally.taken_units:,} units taken, {tally.returned_units:,} returned\n"
            f"{unknown}"
            f"latency   {marks} (from {since} to the final answer, retries included)\n"
            f"run id    {self.run_id}"
        )

    def _per_s(self, count: int) -> float:
        return count / self.elapsed_s if self.elapsed_s > 0 else 0.0


class ProgressDisplay(Protocol):
    """Shows how far the replay is, and notices in between."""

    def update(self, tally: Tally) -> None:
        """Another request has its answer."""

    def notice(self, message: str) -> None:
        """Say something that happened on the way."""


class FewNotices:
    """Passes on one message in a second, and says how many it left out: an outage strikes every client at once."""

    def __init__(self, write: Callable[[str], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now_s = now_s
        self._next_s = 0.0
        self._left_out = 0

    def __call__(self, message: str) -> None:
        """Write it, or count it."""
        now_s = self._now_s()
        if now_s < self._next_s:
            self._left_out += 1
            return
        more = f" (and {self._left_out:,} more messages since the last)" if self._left_out else ""
        self._next_s, self._left_out = now_s + _NOTICE_EVERY_S, 0
        self._write(message + more)


class PlainProgress:
    """Lines of text, one for each tenth of the requests: for logs and pipes."""

    def __init__(self, console: Console, requests: int) -> None:
        self._console = console
        self._requests = max(1, requests)
        self._next_percent = _PLAIN_STEP_PERCENT
        self.notice = FewNotices(lambda message: print_plain(console, message))

    def update(self, tally: Tally) -> None:
        """Write a line if another tenth is done."""
        percent = tally.done * 100 // self._requests
        if percent < self._next_percent:
            return
        self._next_percent = percent - percent % _PLAIN_STEP_PERCENT + _PLAIN_STEP_PERCENT
        print_plain(self._console, f"{percent:3d} % replayed: {tally.text()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to put away."""


class BarProgress:
    """A bar of requests answered, on a terminal."""

    def __init__(self, console: Console, requests: int) -> None:
        self._progress = Progress(
            TextColumn("Replaying"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID = self._progress.add_task("", total=requests, counts="")
        self.notice = FewNotices(lambda message: print_plain(console, message))

    def update(self, tally: Tally) -> None:
        """Move the bar and show the counts."""
        self._progress.update(self._task, completed=tally.done, counts=tally.text())

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()


def progress_for(console: Console, requests: int) -> BarProgress | PlainProgress:
    """The bar on a terminal, lines otherwise."""
    return BarProgress(console, requests) if console.is_terminal else PlainProgress(console, requests)

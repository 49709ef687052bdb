"""Reads at a constant rate, sent by ``h2load`` (of nghttp2); its log tells when each was sent, and how long it took.

What ``--rps`` does: each connection has a timer, which fires every 1/rps (not more often than every 10 ms, so connections
here get fewer than 100 requests/s each); what is due while the connection still waits for an answer (HTTP/1.1 without
pipelining) is sent as soon as that answer is there. So the rate is kept, whatever the service does, but the log's start is
that of the sending. ``percentiles.corrected`` adds what waited unsent; ``Run.late_s`` says how far sending fell behind at most.

Connections are opened one after another, so that their timers do not fire together: requests come evenly. The opening and
its mirror image at the end are left out of every figure.
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import ceil
from multiprocessing import get_context
from pathlib import Path

from benchmarks.steady.percentiles import corrected

_PER_CONNECTION = 80
_OPENING_MS = 13
"""Time between the opening of two connections. It does not divide the period, so that the timers spread over it."""


@dataclass(frozen=True, slots=True)
class Load:
    """A constant rate of ``rate`` requests/s, measured for ``seconds``."""

    rate: float
    seconds: float

    @property
    def connections(self) -> int:
        """Number of connections: enough that each gets its answer before its next request is due."""
        return max(16, ceil(self.rate / _PER_CONNECTION))

    @property
    def period_s(self) -> float:
        """Time from one request of a connection to its next."""
        return self.connections / self.rate

    @property
    def opening_s(self) -> float:
        """Time until the last connection is open."""
        return self.connections * _OPENING_MS / 1_000

    @property
    def requests(self) -> int:
        """Number of all requests, with those of the opening and the ending; each connection sends equally many."""
        return ceil((self.seconds + self.opening_s) / self.period_s) * self.connections


@dataclass(frozen=True, slots=True)
class SentRequest:
    """One request: when it was sent (seconds since 1970), the status of its answer (-1: none), and how long that took."""

    at: float
    status: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of the time in which all connections were open.

    Attributes:
        latencies_s: the latencies of the answers of status 200, ascending, corrected for coordinated omission.
        added: how many of them the correction added.
        rate: the number of requests sent in a second.
        late_s: how far the sending fell behind the constant rate at most.
        statuses: the statuses of all answers, with those of the opening and the ending.
    """

    latencies_s: list[float]
    added: int
    rate: float
    late_s: float
    statuses: Counter[int]

    @property
    def verified(self) -> bool:
        """Whether every answer was a 200."""
        return set(self.statuses) == {200}


def parse(lines: Iterable[str]) -> list[SentRequest]:
    """Return the requests of a log in order of sending. Its columns are microseconds since 1970, status, and microseconds.

    Raises:
        ValueError: a line is not of this form.
    """
    found = []
    for line in lines:
        at, status, took = line.split("\t")[:3]
        found.append(SentRequest(int(at) / 1e6, int(status), int(took) / 1e6))
    found.sort(key=lambda sent: sent.at)
    return found


def evaluate(sent: Sequence[SentRequest], load: Load) -> Run:
    """Return the figures of a log. Raises ``ValueError`` if it has nothing between opening and ending."""
    started, ended = sent[0].at + load.opening_s, sent[-1].at - load.opening_s
    inner = [one for one in sent if started <= one.at < ended]
    if not inner:
        raise ValueError("h2load sent nothing while all connections were open")
    raw = [one.seconds for one in inner if one.status == 200]
    latencies = corrected(raw, load.period_s)
    statuses = Counter(one.status for one in sent)
    rate = len(inner) / (ended - started)
    return Run(latencies, len(latencies) - len(raw), rate, _late(inner, load), statuses)


def _late(inner: Sequence[SentRequest], load: Load) -> float:
    ahead = [one.at - number / load.rate for number, one in enumerate(inner)]
    # Against the average of the first second: the requests of one moment come in no order.
    first = ahead[: max(1, round(load.rate))]
    return max(ahead) - sum(first) / len(first)


async def run(url: str, paths: Sequence[str], load: Load, directory: Path) -> Run:
    """Send GETs of ``paths``, each connection in this order and from the beginning again.

    Raises:
        RuntimeError: h2load is not installed, failed, or an answer is missing.
    """
    if shutil.which("h2load") is None:
        raise RuntimeError("this needs h2load (in Debian and others, package nghttp2-client)")
    targets, log = directory / "h2load-paths", directory / "h2load-log"
    targets.write_text("".join(f"{url}{path}\n" for path in paths))
    log.unlink(missing_ok=True)
    rate = (f"--rps={load.rate / load.connections:.6f}", "--rate=1", f"--rate-period={_OPENING_MS}ms")
    size = ("--clients", str(load.connections), "--requests", str(load.requests), "--threads=1")
    process = await asyncio.create_subprocess_exec(
        "h2load",
        "--h1",
        *size,
        *rate,
        f"--input-file={targets}",
        f"--log-file={log}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    # In a process, because the caller may send requests at a constant rate meanwhile: a thread would hold them up.
    with ProcessPoolExecutor(1, get_context("spawn")) as others:
        sent, found = await asyncio.get_running_loop().run_in_executor(others, _evaluate_log, log, load)
    if process.returncode or found is None:
        raise RuntimeError(f"h2load sent {sent} of {load.requests} requests: {said.decode()[-1_000:]}")
    return found


def _evaluate_log(log: Path, load: Load) -> tuple[int, Run | None]:
    """Return how many requests were sent, and the figures if all were."""
    with log.open() as lines:
        sent = parse(lines)
    return len(sent), evaluate(sent, load) if len(sent) == load.requests else None

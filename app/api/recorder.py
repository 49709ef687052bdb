"""The recorder finds out twice a second how the service is, and takes a sample of its counters once a second.

If several workers share an address, one of them records for all. It keeps the record in a file beside those of the metrics. The
others read only the beginning of that file, four times a second; when it has not been renewed for a while, one of them goes on
with the record. If two go on at once, the one that wrote first finds the other's name in the file, and stops.

What is recorded costs a request nothing: the counters are there anyway. The worker that records spends little time on it.
PostgreSQL gets two small statements a second from an address, and Redis two reads.
"""

import asyncio
import logging
import pickle
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from app.api.load import CALM
from app.api.metrics import WorkerMetrics
from app.api.worker_metrics import SharedMetrics
from app.cache.errors import CacheError, Overloaded
from app.cache.stats import BUCKETS_S, Stats
from app.dashboard.record import Record
from app.dashboard.samples import Counters
from app.dashboard.verdict import State
from app.settings import Settings, names_in

OBSERVED_EVERY_S = 0.5
LOOKED_EVERY_S = 0.25
"""Pause of a worker that does not record until it looks again whether another one does."""
SILENT_S = 1.0
"""Age of a worker's last report, or of the record, after which its writer counts as away."""
UNANSWERED_S = 0.6
"""How long a server may leave a question unanswered until it counts as away."""
_WAIT_S = 0.3
"""How long one observation waits for the answers, at most."""
_CHANGES = frozenset({"DELETE", "PATCH", "POST", "PUT"})
_MEASURED = ("/products", "/stock")
"""Beginnings of the routes whose durations are shown; the operators' own requests are left out."""
_log = logging.getLogger("larder")
Answer = TypeVar("Answer")


class Watchable(Protocol):
    """The cache, as far as the recorder watches it and its servers."""

    async def ping(self) -> None:
        """Return once PostgreSQL has answered that it can be used; raise an error if it does not answer in time."""

    async def proven(self) -> bool:
        """Return whether the cache is proven current now; raise an error if its store does not answer."""


class Recorder:
    """Keeps the record of an address, or follows the worker that keeps it.

    Args:
        settings: the service's settings.
        total: returns the counters of all workers.
        cache: what is watched.
        stats: where unexpected errors are counted.
        shared: the metrics of all workers, or ``None`` when this process is alone on its address.
        clock: a clock that all workers share, in seconds.
        wall_clock: Unix time.
    """

    def __init__(
        self,
        settings: Settings,
        total: Callable[[], WorkerMetrics],
        cache: Watchable,
        stats: Stats,
        shared: SharedMetrics | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._total = total
        self._stats = stats
        self._shared_file = None if shared is None else _RecordFile(shared.directory, shared.number, clock)
        self._clock = clock
        self._wall_clock = wall_clock
        self._record = Record()
        self._recording = shared is None
        self._postgresql = _Question(cache.ping, clock)
        self._fence = _Question(cache.proven, clock)
        self._due = 0.0
        self._failing = False

    @property
    def workers_wanted(self) -> int:
        """Number of workers that should be alive."""
        return 1 if self._shared_file is None else self._settings.workers

    def record(self) -> Record:
        """Return the record: this worker's own, or that of the one that records."""
        if self._recording or self._shared_file is None:
            return self._record
        return self._shared_file.read() or self._record

    async def run(self) -> None:
        """Record, or wait until it is this worker's turn, until cancelled."""
        try:
            while True:
                began = self._clock()
                try:
                    await self.step()
                except Exception as error:  # noqa: BLE001 - whatever it was, the next observation begins afresh
                    self._stats.unexpected += 1
                    if not self._failing:
                        _log.error("the state of the service could not be recorded: %s", error, exc_info=error)
                    self._failing = True
                else:
                    self._failing = False
                pause_s = OBSERVED_EVERY_S if self._recording else LOOKED_EVERY_S
                await asyncio.sleep(max(0.05, began + pause_s - self._clock()))
        finally:
            self._postgresql.close()
            self._fence.close()

    async def step(self) -> None:
        """Observe once, if it is this worker's turn."""
        if self._shared_file is not None:
            was_recording, self._recording = self._recording, self._shared_file.is_ours()
            if self._recording and not was_recording:
                self._record = self._shared_file.read() or Record()
        if not self._recording:
            return
        await self.observe()
        if self._shared_file is not None:
            self._shared_file.write(self._record)

    async def observe(self) -> None:
        """Find out the state of the service, and take a sample if one is due."""
        postgresql_up, proven = await asyncio.gather(self._postgresql.answer(), self._fence.answer())
        total, now = self._total(), self._clock()
        last_proven = total.cache.last_proven
        self._record.complete = self._record.complete or total.workers >= self.workers_wanted
        wanted = self.workers_wanted if self._record.complete else total.workers
        missing = self._record.count_missing(self._wall_clock(), total.restarts, wanted - total.workers)
        state = State(
            postgresql_up=postgresql_up is not _NO_ANSWER,
            redis_up=total.store_up and proven is not _NO_ANSWER,
            proven=proven is True or proven is None,
            cache_off=bool(names_in(self._settings.cache_off)),
            around="around" in self._settings.write_policies.values() and not names_in(self._settings.cache_off),
            keys_readable=total.keys_readable,
            workers=wanted - missing,
            workers_wanted=wanted,
            overloaded=total.load.pressure > CALM,
            proof_age_s=None if last_proven is None else max(0.0, now - last_proven),
            fence_ttl_s=self._settings.fence_ttl_ms / 1000,
            settle_s=self._settings.fence_ttl_max_ms / 1000,
            unverified_s=self._settings.serve_unverified_s,
        )
        self._record.observe(self._wall_clock(), state)
        if now >= self._due:
            self._due = max(self._due + 1.0, now + 0.5)
            self._record.sample(counters_of(total, self._wall_clock()))


class _NoAnswer:
    """Stands for the answer of a server that gives none."""


_NO_ANSWER = _NoAnswer()


class _Question(Generic[Answer]):
    """A question to a server, which is asked again when it is answered. One that hangs is not waited for for long."""

    def __init__(self, ask: Callable[[], Awaitable[Answer]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._asking: asyncio.Task[Answer] | None = None
        self._asked_at = 0.0
        self._last: Answer | _NoAnswer | None = None

    async def answer(self) -> Answer | _NoAnswer | None:
        """Return the answer, or the one before if there is none yet (``None`` at first), or ``_NO_ANSWER``."""
        if self._asking is None:
            self._asked_at = self._clock()
            self._asking = asyncio.ensure_future(self._ask())
        left_s = self._asked_at + UNANSWERED_S - self._clock()
        await asyncio.wait({self._asking}, timeout=min(_WAIT_S, max(0.0, left_s)))
        if self._asking.done():
            task, self._asking = self._asking, None
            try:
                self._last = task.result()
            except Overloaded:
                pass  # the server is there; others use all connections to it
            except CacheError:
                self._last = _NO_ANSWER
        elif left_s <= _WAIT_S:
            self._last = _NO_ANSWER
        return self._last

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()


class _RecordFile:
    """The file in which the worker that records keeps the record for the others."""

    def __init__(self, directory: Path, number: int, clock: Callable[[], float]) -> None:
        self._file = directory / "record"
        self._new = directory / f"record.{number}"
        self._number = number
        self._clock = clock

    def is_ours(self) -> bool:
        """Return whether this worker wrote the file, or nobody has for a while."""
        try:
            with self._file.open("rb") as file:
                number, written_at = file.readline().split()
        except (OSError, ValueError):
            return True
        return int(number) == self._number or self._clock() - float(written_at) >= SILENT_S

    def read(self) -> Record | None:
        """Return the record, or ``None`` if there is none."""
        try:
            with self._file.open("rb") as file:
                file.readline()
                record: Record = pickle.load(file)  # noqa: S301 - written by our own workers; nobody else can enter the directory
        except FileNotFoundError:
            return None
        return record

    def write(self, record: Record) -> None:
        """Replace the file."""
        try:
            self._new.write_bytes(b"%d %.6f\n%b" % (self._number, self._clock(), pickle.dumps(record)))
            self._new.replace(self._file)
        except FileNotFoundError:
            pass  # the parent is dead and the directory removed, so this worker is about to end


def counters_of(total: WorkerMetrics, now: float) -> Counters:
    """Return the counters of which samples are made. ``now`` is Unix time."""
    cache, requests = total.cache, total.requests
    durations = [0] * (len(BUCKETS_S) + 1)
    for route, histogram in requests.durations.items():
        if route.startswith(_MEASURED):
            durations = [sum(pair) for pair in zip(durations, histogram.counts, strict=True)]
    return Counters(
        at=now,
        hits=cache.hits + cache.unverified,
        reads=cache.hits + cache.misses + cache.bypasses + cache.refreshes + cache.unverified,
        writes=_count(requests.requests, lambda method, status: method in _CHANGES and status < HTTPStatus.BAD_REQUEST),
        statements=total.statements,
        refused=sum(total.access.refused.values()),
        settles=cache.settles,
        failed=_count(requests.requests, lambda _, status: status >= HTTPStatus.INTERNAL_SERVER_ERROR),
        durations=durations,
        connections=requests.connections.open,
    )


def _count(requests: Mapping[tuple[str, str, int], int], counts: Callable[[str, int], bool]) -> int:
    """Return the number of requests for products and stock whose method and status count."""
    return sum(
        number for (method, route, status), number in requests.items() if route.startswith(_MEASURED) and counts(method, status)
    )

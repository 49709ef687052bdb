"""The recorder: what it finds out, who of several workers records, and that nothing stops it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.api.load import CALM
from app.api.metrics import LoadState, RequestStats, WorkerMetrics
from app.api.recorder import SILENT_S, UNANSWERED_S, Recorder, Watchable, counters_of
from app.api.worker_metrics import SharedMetrics
from app.cache.errors import Overloaded, SourceUnavailable, StoreUnavailable
from app.cache.stats import Stats
from app.dashboard.record import NOTICED_S
from app.dashboard.verdict import Trouble
from app.settings import Settings

SETTINGS = Settings.from_env({"LARDER_WORKERS": "2", "LARDER_ACCESS": "open"})


class Clock:
    """A clock set by the test."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Servers(Watchable):
    """The cache and its servers, whose answers the test sets."""

    postgresql_fault: Exception | None = None
    redis_fault: Exception | None = None
    fenced: bool = True
    hang: "asyncio.Event | None" = None

    async def ping(self) -> None:
        if self.hang is not None:
            await self.hang.wait()
        if self.postgresql_fault is not None:
            raise self.postgresql_fault

    async def proven(self) -> bool:
        if self.redis_fault is not None:
            raise self.redis_fault
        return self.fenced


@dataclass
class Rig:
    """A recorder of a process that is alone on its address."""

    total: WorkerMetrics = field(default_factory=lambda: WorkerMetrics(workers=1))
    servers: Servers = field(default_factory=Servers)
    stats: Stats = field(default_factory=Stats)
    clock: Clock = field(default_factory=Clock)
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.recorder = Recorder(
            SETTINGS, lambda: self.total, self.servers, self.stats, clock=self.clock, wall_clock=self.clock
        )

    async def troubles(self) -> set[Trouble]:
        """What one more observation finds wrong."""
        self.clock.now += 0.5
        await self.recorder.step()
        return set(self.recorder.record().incidents.since())


async def test_nothing_is_wrong() -> None:
    """With both servers there and a live fence."""
    assert await Rig().troubles() == set()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda rig: setattr(rig.servers, "postgresql_fault", SourceUnavailable("gone")), {Trouble.POSTGRESQL_AWAY}),
        (lambda rig: setattr(rig.servers, "redis_fault", StoreUnavailable("gone")), {Trouble.REDIS_AWAY}),
        (lambda rig: setattr(rig.total, "store_up", False), {Trouble.REDIS_AWAY}),
        (lambda rig: setattr(rig.servers, "fenced", False), {Trouble.UNPROVEN}),
        (lambda rig: setattr(rig.total, "keys_readable", False), {Trouble.KEYS_UNREADABLE}),
        (lambda rig: setattr(rig.total, "workers", 0), {Trouble.WORKER_AWAY}),
        (lambda rig: setattr(rig.total, "load", LoadState(CALM + 0.1)), {Trouble.OVERLOADED}),
        (lambda rig: setattr(rig.servers, "postgresql_fault", Overloaded("all connections are in use")), set()),
    ],
    ids=["postgresql", "redis", "redis-of-a-worker", "unproven", "keys", "worker", "overloaded", "busy-is-not-away"],
)
async def test_what_is_wrong_is_found(change: Callable[[Rig], None], found: set[Trouble]) -> None:
    """Each trouble, alone, at the next observation."""
    rig = Rig()
    assert await rig.troubles() == set()
    change(rig)
    assert await rig.troubles() == found


async def test_an_outage_has_its_times() -> None:
    """It begins and ends with the observations that find it and miss it."""
    rig = Rig()
    await rig.troubles()
    rig.servers.redis_fault = StoreUnavailable("gone")
    assert await rig.troubles() == {Trouble.REDIS_AWAY}
    rig.servers.redis_fault = None
    assert await rig.troubles() == set()
    [incident] = rig.recorder.record().incidents.all
    assert (incident.began, incident.ended) == (1_001.0, 1_001.5)


async def test_a_server_that_hangs_is_away_after_a_second() -> None:
    """The recorder goes on meanwhile, and asks again when the question is answered at last."""
    rig = Rig()
    assert await rig.troubles() == set()
    rig.servers.hang = asyncio.Event()
    assert await rig.troubles() == set()
    rig.clock.now += UNANSWERED_S
    assert await rig.troubles() == {Trouble.POSTGRESQL_AWAY}
    rig.servers.hang.set()
    assert await rig.troubles() == set()


async def test_workers_that_are_still_starting_are_not_missed() -> None:
    """A worker is away only when all have served together before."""
    clock, total = Clock(), WorkerMetrics(workers=1)
    recorder = shared_recorder(Path("/nonexistent"), 1, clock, total)
    await recorder.observe()
    total.workers = 2
    await recorder.observe()
    assert recorder.record().incidents.all == []
    total.workers = 1
    await recorder.observe()
    assert set(recorder.record().incidents.since()) == {Trouble.WORKER_AWAY}


async def test_a_worker_that_is_replaced_between_two_observations_is_missed_nevertheless() -> None:
    """It counts as away for ``NOTICED_S``, once, so that a page that looks twice a second shows it."""
    clock, total = Clock(), WorkerMetrics(workers=2)
    recorder = shared_recorder(Path("/nonexistent"), 1, clock, total)
    await recorder.observe()
    total.restarts = 1
    clock.now += 0.5
    await recorder.observe()
    assert set(recorder.record().incidents.since()) == {Trouble.WORKER_AWAY}
    assert recorder.record().state.workers == 1
    clock.now += NOTICED_S
    await recorder.observe()
    assert recorder.record().incidents.since() == {}
    assert [incident.text for incident in recorder.record().incidents.all] == ["1 of 2 workers away"]


async def test_a_worker_whose_absence_was_seen_is_there_again_at_once() -> None:
    """Its replacement is no second incident, and does not prolong the first one."""
    clock, total = Clock(), WorkerMetrics(workers=2)
    recorder = shared_recorder(Path("/nonexistent"), 1, clock, total)
    await recorder.observe()
    total.workers = 1
    await recorder.observe()
    total.workers, total.restarts = 2, 1
    await recorder.observe()
    assert recorder.record().incidents.since() == {}
    assert len(recorder.record().incidents.all) == 1


def shared_recorder(directory: Path, number: int, clock: Clock, total: WorkerMetrics | None = None) -> Recorder:
    """A recorder of one of two workers."""
    live = total or WorkerMetrics(workers=2)
    shared = SharedMetrics(directory, number, clock)
    return Recorder(SETTINGS, lambda: live, Servers(), Stats(), shared, clock=clock, wall_clock=clock)


async def test_one_worker_records_for_all(tmp_path: Path) -> None:
    """The other one shows the same record; when the first is gone for a second, it goes on with it, and then keeps it."""
    clock = Clock()
    one, two = shared_recorder(tmp_path, 1, clock), shared_recorder(tmp_path, 2, clock)
    for _ in range(5):
        clock.now += 1.0
        await one.step()
        await two.step()
    assert two.record() == one.record()
    assert two.record().samples.count == 4
    clock.now += SILENT_S
    await two.step()
    await one.step()
    assert two.record().samples.count == 5
    assert one.record() == two.record()
    assert two.record().began == 1_001.0


async def test_a_new_worker_goes_on_with_the_record_of_its_predecessor(tmp_path: Path) -> None:
    """A worker that was killed while it recorded is replaced by one of the same number."""
    clock = Clock()
    first = shared_recorder(tmp_path, 1, clock)
    for _ in range(3):
        clock.now += 1.0
        await first.step()
    clock.now += 1.0
    successor = shared_recorder(tmp_path, 1, clock)
    await successor.step()
    assert successor.record().samples.count == 3


async def test_two_that_record_at_once_agree_at_once(tmp_path: Path) -> None:
    """Both found nobody recording; the one that wrote first finds the other's name, and stops."""
    clock = Clock()
    one, two = shared_recorder(tmp_path, 1, clock), shared_recorder(tmp_path, 2, clock)
    await asyncio.gather(one.step(), two.step())
    clock.now += 0.5
    await asyncio.gather(one.step(), two.step())
    assert one.record() == two.record()
    written = (tmp_path / "record").read_bytes().split()[0]
    clock.now += 0.5
    await asyncio.gather(one.step(), two.step())
    assert (tmp_path / "record").read_bytes().split()[0] == written


async def test_recording_survives_any_error(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and logged once, and the next observation begins afresh."""
    rig = Rig()
    rig.servers.redis_fault = RuntimeError("a defect")
    running = asyncio.create_task(rig.recorder.run())
    await until(lambda: rig.stats.unexpected >= 2)
    rig.servers.redis_fault = None
    await until(lambda: rig.recorder.record().observed > 0)
    running.cancel()
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_operators_own_requests_are_not_counted() -> None:
    """Rates, durations and failures are those of products and stock."""
    requests = RequestStats()
    requests.observe("GET", "/dashboard/data", 500, 1.0)
    requests.observe("GET", "/products/{product_id}", 503, 0.1)
    requests.observe("POST", "/stock/adjustments", 200, 0.2)
    requests.observe("PUT", "/products/{product_id}", 412, 0.1)
    counters = counters_of(WorkerMetrics(requests, {"n": Stats(hits=3, misses=1, unverified=2)}), 7.0)
    assert (counters.writes, counters.failed, sum(counters.durations)) == (1, 1, 3)
    assert (counters.reads, counters.hits) == (6, 5)

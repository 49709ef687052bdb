"""Tests of the workers' shared counters: what is summed, what survives a worker, and what does not."""

import asyncio
import fcntl
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.metrics import RequestStats, WorkerMetrics, render
from app.api.worker_metrics import SharedMetrics
from app.cache.ports import Outcome, Repairs
from app.cache.stats import Histogram, Stats


class Clock:
    """A clock set by the test."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def _live(reads: int, *, store_up: bool = True, last_proven: float | None = None) -> WorkerMetrics:
    """Return the counters of a process that answered ``reads`` reads, all of them hits."""
    requests = RequestStats()
    for _ in range(reads):
        requests.observe("GET", "/products/{product_id}", 200, 0.002)
    return WorkerMetrics(requests, {"n": Stats(hits=reads, last_proven=last_proven)}, 1, store_up=store_up, workers=1)


def _shown(tally: WorkerMetrics, clock: Callable[[], float]) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(render(tally, clock).decode())
        for sample in family.samples
    }


def test_whoever_is_asked_shows_the_sum(tmp_path: Path) -> None:
    """Each of two workers shows the sums of both, including durations and labels."""
    clock = Clock()
    one, two = SharedMetrics(tmp_path, 1, clock), SharedMetrics(tmp_path, 2, clock)
    two.total(_live(5))
    sums = _shown(one.total(_live(3)), clock)
    assert sums["larder_http_requests_total", ("GET", "/products/{product_id}", "200")] == 8
    assert sums["larder_http_request_seconds_count", ("/products/{product_id}",)] == 8
    assert sums["larder_http_request_seconds_sum", ("/products/{product_id}",)] == pytest.approx(0.016)
    assert sums["larder_cache_reads_total", ("n", "hit")] == 8
    assert sums["larder_cache_store_failures_total", ("n",)] == 2
    assert sums["larder_workers", ()] == 2
    assert _shown(two.total(_live(5)), clock) == sums


def test_successor_goes_on_from_what_was_shown(tmp_path: Path) -> None:
    """Counts of a dead worker are kept; its successor adds to them and counts as a restart."""
    clock = Clock()
    one, two = SharedMetrics(tmp_path, 1, clock), SharedMetrics(tmp_path, 2, clock)
    assert two.total(_live(5)).caches["n"].hits == 5
    assert one.total(_live(3)).caches["n"].hits == 8
    successor = SharedMetrics(tmp_path, 2, clock)
    assert one.total(_live(3)).caches["n"].hits == 8
    sums = _shown(successor.total(_live(2)), clock)
    assert sums["larder_cache_reads_total", ("n", "hit")] == 10
    assert sums["larder_worker_restarts_total", ()] == 1
    assert sums["larder_workers", ()] == 2
    assert SharedMetrics(tmp_path, 2, clock).total(_live(0)).restarts == 2


def test_state_of_a_worker_goes_with_it(tmp_path: Path) -> None:
    """The store is up if every live worker has it; a dead worker keeps its counts but is not counted as a worker."""
    clock = Clock()
    one, two = SharedMetrics(tmp_path, 1, clock), SharedMetrics(tmp_path, 2, clock)
    two.total(_live(5, store_up=False))
    assert _shown(one.total(_live(3)), clock)["larder_cache_store_up", ("n",)] == 0
    clock.now += 60
    sums = _shown(one.total(_live(3)), clock)
    assert sums["larder_cache_store_up", ("n",)] == 1
    assert sums["larder_workers", ()] == 1
    assert sums["larder_cache_reads_total", ("n", "hit")] == 8


def test_age_is_that_of_the_youngest(tmp_path: Path) -> None:
    """The later of two workers' proofs counts, even if it was reported earlier; without any proof no age is shown."""
    clock = Clock()
    one, two = SharedMetrics(tmp_path, 1, clock), SharedMetrics(tmp_path, 2, clock)
    two.total(_live(5, last_proven=clock.now - 1))
    clock.now += 2
    assert _shown(one.total(_live(3, last_proven=clock.now - 30)), clock)["larder_cache_proof_age_seconds", ("n",)] == 3
    assert ("larder_cache_audit_age_seconds", ("n",)) not in _shown(one.total(_live(3)), clock)


async def test_tally_is_kept_until_the_end(tmp_path: Path) -> None:
    """The counters reach the other workers without a request, and the last counts are written at the end."""
    one, two = SharedMetrics(tmp_path, 1), SharedMetrics(tmp_path, 2)
    live = _live(0)
    keeping = asyncio.create_task(two.keep(lambda: live))
    for hits in (4, 9):
        live.caches["n"].hits = hits
        async with asyncio.timeout(30):
            while one.total(_live(0)).caches["n"].hits < hits:
                await asyncio.sleep(0.01)
    live.caches["n"].hits = 11
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert one.total(_live(0)).caches["n"].hits == 11


def test_directory_that_is_gone_ends_no_worker(tmp_path: Path) -> None:
    """Without the directory a worker still shows what it has counted itself."""
    directory = tmp_path / "tallies"
    directory.mkdir()
    one = SharedMetrics(directory, 1)
    shutil.rmtree(directory)
    assert one.total(_live(3)).caches["n"].hits == 3
    assert SharedMetrics(directory, 2).total(_live(4)).caches["n"].hits == 4


def test_every_count_is_summed() -> None:
    """Whatever is added to the counters is summed with them: each field of the sum differs from both of its parts."""
    duration = Histogram()
    duration.observe(0.2)
    values = {int: 2, float: 7.0, Histogram: duration, Repairs: Repairs(1, 2, 3, 4)}
    stats = Stats(publishes=Counter({Outcome.STORED: 3}), written_keys=Counter(no=3))
    for part in fields(Stats):
        if part.name not in ("publishes", "written_keys"):
            kind = type(getattr(stats, part.name)) if getattr(stats, part.name) is not None else float
            setattr(stats, part.name, values[kind])
    both = stats + stats
    assert both.publishes == {Outcome.STORED: 6}
    assert both.written_keys == {"no": 6}
    assert both.repairs == Repairs(2, 4, 6, 8)
    for part in fields(Stats):
        one, sum_of_both = getattr(stats, part.name), getattr(both, part.name)
        if isinstance(one, int):
            assert sum_of_both == 4, part.name
        if isinstance(one, Histogram):
            assert sum(sum_of_both.counts) == 2, part.name
            assert sum_of_both.total_s == pytest.approx(0.4)
    assert (both.last_audit, both.last_proven) == (7.0, 7.0)
    assert (stats + Stats()).last_audit == (Stats() + stats).last_audit == 7.0
    assert (replace(stats, last_audit=5.0) + stats).last_audit == 7.0


def test_text_is_made_once_a_second_for_all(tmp_path: Path) -> None:
    """Within a second every worker shows the text that one of them made; after it the next one makes a newer text."""
    clock = Clock()
    one, two = SharedMetrics(tmp_path, 1, clock), SharedMetrics(tmp_path, 2, clock)

    def text_of(workers: SharedMetrics, reads: int) -> bytes:
        return workers.shown(lambda: _live(reads), lambda tally: b"%d" % tally.caches["n"].hits)

    assert text_of(one, 3) == b"3"
    assert text_of(two, 5) == text_of(one, 9) == b"3"
    clock.now += 1.0
    assert text_of(two, 5) == b"8"
    assert text_of(one, 9) == b"8"
    clock.now += 1.0
    assert text_of(one, 9) == b"14"


def test_text_is_made_without_the_directory(tmp_path: Path) -> None:
    """When the parent is dead and the directory removed, a worker shows what it knows itself."""
    directory = tmp_path / "shared"
    directory.mkdir()
    worker = SharedMetrics(directory, 1)
    shutil.rmtree(directory)
    assert worker.shown(lambda: _live(3), lambda tally: b"%d" % tally.caches["n"].hits) == b"3"


def test_worker_that_was_stopped_with_the_lock_holds_up_nobody(tmp_path: Path) -> None:
    """The others show the last text for a while, and then one of their own."""
    clock = Clock()
    worker = SharedMetrics(tmp_path, 1, clock)

    def text(reads: int) -> bytes:
        return worker.shown(lambda: _live(reads), lambda tally: b"%d" % tally.caches["n"].hits)

    assert text(3) == b"3"
    with (tmp_path / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clock.now += 2.0
        assert text(5) == b"3"
        clock.now += 5.0
        assert text(7) == b"7"

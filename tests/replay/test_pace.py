"""The schedule and the measure: in virtual time."""

import random

from hypothesis import given
from hypothesis import strategies as st

from app.importer.retry import Stopping
from app.replay.latency import Latencies
from app.replay.pace import Pace


class Clock(Stopping):
    """Waiting moves the clock, and takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def read_s(self) -> float:
        return self.now_s

    async def wait_ms(self, duration_ms: float) -> bool:
        self.now_s += duration_ms / 1000
        return not self.requested


async def test_requests_are_due_at_a_steady_rate() -> None:
    """Number i at i/rate, without drift: each from the start, not from the one before."""
    clock = Clock()
    pace = Pace(3.0, clock, clock.read_s)
    dues = [await pace.turn(number) for number in range(3000)]
    assert dues == [1000.0 + number / 3.0 for number in range(3000)]
    assert abs(clock.now_s - (1000.0 + 2999 / 3.0)) < 1e-6


async def test_late_request_is_due_when_it_was_due() -> None:
    """After a stall nothing waits, and the moment given is the scheduled one: the lateness counts as latency."""
    clock = Clock()
    pace = Pace(10.0, clock, clock.read_s)
    await pace.turn(0)
    clock.now_s += 5.0
    assert [await pace.turn(number) for number in (1, 2, 3)] == [1000.1, 1000.2, 1000.3]
    assert clock.now_s == 1005.0


async def test_without_a_rate_a_request_is_due_now() -> None:
    """As fast as it goes: nothing waits, nothing is late."""
    clock = Clock()
    pace = Pace(None, clock, clock.read_s)
    await pace.turn(0)
    clock.now_s += 7.0
    assert await pace.turn(1) == 1007.0


async def test_stop_ends_the_waiting() -> None:
    """A slow schedule does not hold up Ctrl-C."""
    clock = Clock()
    pace = Pace(0.001, clock, clock.read_s)
    assert await pace.turn(0) == 1000.0
    clock.request()
    assert await pace.turn(1) is None


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=200), st.sampled_from([50, 95, 99, 100]))
def test_percentiles_are_those_of_all_values(values: list[int], percent: int) -> None:
    """Nearest rank, within half a percent."""
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]
    assert abs(latencies.percentile_us(percent) - exact) <= exact * 0.005
    assert latencies.max_us == max(values)
    assert latencies.count == len(values)


def test_memory_does_not_grow_with_the_requests() -> None:
    """A day of them has no more different values than an hour."""
    chance, latencies = random.Random(1), Latencies()
    for _ in range(100_000):
        latencies.add(int(chance.lognormvariate(8, 3)))
    assert len(latencies._counts) < 8_000


def test_no_latencies() -> None:
    """A run that was stopped before its first answer has a summary, too."""
    assert Latencies().percentile_us(99) == 0

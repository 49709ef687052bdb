"""Samples: rates from counters, and the ring that keeps 15 minutes of them."""

import pytest

from app.cache.stats import BUCKETS_S
from app.dashboard.samples import KEPT, WINDOW, Counters, Samples, quantile_ms, sample_of


def test_rates_are_per_second() -> None:
    """Two seconds with 90 hits of 100 reads."""
    before = Counters(at=10.0, hits=5, reads=6, writes=1, statements=7, connections=3)
    after = Counters(at=12.0, hits=95, reads=106, writes=5, statements=27, refused=2, settles=4, failed=6, connections=9)
    sample = sample_of(before, after)
    assert (sample.reads, sample.saved, sample.hit_ratio, sample.writes, sample.statements) == (50.0, 45.0, 0.9, 2.0, 10.0)
    assert (sample.refused, sample.settles, sample.failed, sample.connections) == (1.0, 2.0, 3.0, 9)
    assert (sample.p50_ms, sample.p99_ms) == (None, None)


def test_nothing_has_no_ratio() -> None:
    """Without reads no share of them is claimed."""
    assert sample_of(Counters(at=1.0), Counters(at=2.0)).hit_ratio is None


def test_a_counter_that_went_back_counts_as_still() -> None:
    """A killed worker takes the counts with it that it had not written yet."""
    sample = sample_of(Counters(at=1.0, reads=10, durations=[4, 0]), Counters(at=2.0, reads=8, durations=[3, 1]))
    assert sample.reads == 0.0
    assert sample.p50_ms == BUCKETS_S[1] * 1000


@pytest.mark.parametrize(
    ("counts", "p50", "p99"),
    [
        ([100, *[0] * 13], 0.5, 0.5),
        ([98, 0, 2, *[0] * 11], 0.5, 2.5),
        ([1, 1, *[0] * 12], 0.5, 1.0),
        ([*[0] * 13, 5], 5000.0, 5000.0),
        ([0] * 14, None, None),
    ],
)
def test_quantiles_are_upper_bounds(counts: list[int], p50: float | None, p99: float | None) -> None:
    """The bound of the bucket in which the share is reached; what is above all bounds is given the last one."""
    assert (quantile_ms(counts, 0.5), quantile_ms(counts, 0.99)) == (p50, p99)


def test_a_reader_gets_what_it_has_not_seen() -> None:
    """Every sample once, by its number; a reader that was away for long gets what is kept."""
    samples = Samples()
    for second in range(6):
        samples.add(Counters(at=float(second)))
    assert samples.count == 5
    assert [sample.at for sample in samples.after(0)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [sample.at for sample in samples.after(3)] == [4.0, 5.0]
    assert samples.after(5) == samples.after(99) == []
    for second in range(6, KEPT + 101):
        samples.add(Counters(at=float(second)))
    assert len(samples.after(0)) == KEPT
    assert [sample.at for sample in samples.after(samples.count - 1)] == [KEPT + 100.0]


def test_the_present_is_the_last_ten_samples() -> None:
    """One slow second moves it little."""
    samples = Samples()
    assert samples.present() is None
    for second in range(30):
        samples.add(Counters(at=float(second), reads=1_000 if second < 30 - WINDOW else 1_000 + 10 * second))
    present = samples.present()
    assert present is not None
    assert (present[0].reads, present[1]) == (29.0, 10)


def test_the_present_begins_anew_when_something_changed() -> None:
    """What was answered before PostgreSQL went away is not in the figures that are shown meanwhile."""
    samples = Samples()
    for second in range(20):
        samples.add(Counters(at=float(second), reads=min(1_000 * second, 17_000)))
    present = samples.present(since=17.0)
    assert present is not None
    assert (present[0].reads, present[1]) == (0.0, 2)
    latest = samples.present(since=100.0)
    assert latest is not None
    assert latest[1] == 1

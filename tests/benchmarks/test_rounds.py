"""Rounds at a fixed rate: what counts, and the ratio of neighbours."""

from collections import Counter

import pytest

from benchmarks.steady.h2load import Run
from benchmarks.steady.rounds import Rounds, judge


def _rounds(label: str, *p99_ms: float, rate: float = 1_000.0, statuses: tuple[int, ...] = (200,)) -> Rounds:
    found = Rounds(label, 1_000.0)
    for one in p99_ms:
        found.add(Run([0.001] * 98 + [one / 1_000] * 2, 0, rate, 0.0, Counter(statuses)))
    return found


def test_the_ratio_is_that_of_each_round() -> None:
    """A machine that was slow for both in one round does not decide: the median of the rounds' ratios does."""
    target = judge(_rounds("ours", 3.0, 30.0, 3.0), _rounds("bare", 2.0, 20.0, 1.0))
    assert target.passed
    assert target.measured.startswith("1.50x (1.50-3.00x)")
    assert not judge(_rounds("ours", 5.0, 5.0, 3.0), _rounds("bare", 2.0, 2.0, 2.0)).passed


@pytest.mark.parametrize("which", [{"rate": 900.0}, {"statuses": (200, 503)}])
def test_rounds_that_were_no_such_load_are_a_miss(which: dict[str, object]) -> None:
    """A round does not count if either contender had too few requests or another answer than 200."""
    good = _rounds("one", 2.0)
    bad = _rounds("other", 2.0, **which)  # type: ignore[arg-type]  # the parameter names are the helper's own
    assert judge(good, good).passed
    assert not judge(bad, good).passed
    assert not judge(good, bad).passed

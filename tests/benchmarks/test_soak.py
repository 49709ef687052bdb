"""The soak's judgement, and the load that it puts on the service."""

from collections.abc import Sequence

import pytest

from benchmarks.steady.soak import RATE, Memory, Open, SoakRun, judge

REST = Open(descriptors=20, tasks=4, postgres=5)


def _memory(first_mb: float, last_mb: float) -> Memory:
    """Ten minutes, one sample a second, on a straight line."""
    return Memory([(second, round(1e6 * (first_mb + (last_mb - first_mb) * second / 600))) for second in range(601)])


def _soak_run(products: int, memory: Memory, *, after: Open = REST, rate: float = RATE, wrong: Sequence[str] = ()) -> SoakRun:
    return SoakRun(products, 10, memory, REST, after, RATE, rate, 240_000, wrong, pool=10)


def _passed(*found: SoakRun) -> list[bool]:
    return [target.passed for target in judge(found)]


def test_growth_is_a_miss() -> None:
    """Five percent are allowed, in either direction; more is not."""
    assert _passed(_soak_run(1_000, _memory(100, 104))) == [True, True]
    assert _passed(_soak_run(1_000, _memory(100, 107))) == [False, True]
    assert _passed(_soak_run(1_000, _memory(100, 90))) == [False, True]


@pytest.mark.parametrize("after", [Open(21, 4, 5), Open(20, 5, 5), Open(20, 4, 11)])
def test_whatever_grows_at_rest_is_a_miss(after: Open) -> None:
    """A descriptor, a task, or a connection beyond the pool."""
    assert _passed(_soak_run(1_000, _memory(100, 100), after=after)) == [True, False]


def test_sizes_are_compared() -> None:
    """A large catalogue may cost 20 MB more than a small one."""
    assert _passed(_soak_run(1_000, _memory(100, 100)), _soak_run(1_000_000, _memory(119, 119)))[-1]
    assert not _passed(_soak_run(1_000, _memory(100, 100)), _soak_run(1_000_000, _memory(121, 121)))[-1]


def test_another_load_proves_nothing() -> None:
    """A rate that was not achieved, or wrong answers, fail every target."""
    still = _memory(100, 100)
    assert not any(_passed(_soak_run(1, still, rate=RATE / 2), _soak_run(2, still, rate=RATE / 2)))
    assert not any(_passed(_soak_run(1, still, wrong=["GET /: 500"]), _soak_run(2, still, wrong=["GET /: 500"])))

"""The judgements of the component figures."""

import pytest

from benchmarks.steady.components import Cost, Counts, Operation, judge


async def _nothing(_: str) -> None:
    """Do nothing."""


def _cost(name: str, *, alone: Counts, together: Counts) -> Cost:
    return Cost(Operation(name, _nothing, times=10), 1.0, 2.0, 100.0, 40, alone, together)


FILLED = _cost("filled", alone=Counts(12, 10, 10, 40, 10), together=Counts(7, 5, 5, 20, 5))
EMPTY = _cost("empty", alone=Counts(22, 10, 20, 40, 10), together=Counts(12, 5, 10, 20, 5))


def test_one_round_trip_after_and_one_before_are_allowed() -> None:
    """A write on a filled slot publishes once; one on an empty slot takes a lease first; batches share both.

    Round trips without such a script do not count.
    """
    assert judge(FILLED, EMPTY).passed


@pytest.mark.parametrize(
    ("filled", "empty"),
    [
        # A lease where the slot is filled, a second publish, a second trip before.
        (_cost("filled", alone=Counts(22, 10, 20, 40, 10), together=FILLED.together), EMPTY),
        (_cost("filled", alone=FILLED.alone, together=Counts(12, 10, 10, 20, 5)), EMPTY),
        (FILLED, _cost("empty", alone=Counts(32, 10, 30, 40, 10), together=EMPTY.together)),
        # As many transactions as writes, 32 at a time, is not what joining promises.
        (_cost("filled", alone=FILLED.alone, together=Counts(42, 40, 40, 160, 40)), EMPTY),
    ],
)
def test_whatever_costs_more_is_missed(filled: Cost, empty: Cost) -> None:
    """Round trips beyond those, and batches that share nothing."""
    assert not judge(filled, empty).passed

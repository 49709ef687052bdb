"""Percentiles, and what a client that waits for its answer leaves out of them.

*Coordinated omission*: a connection that waits for an answer sends nothing meanwhile, so that a stall of a second is seen once,
where an open world would have sent, and waited with, a hundred requests. ``corrected`` puts them back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0)
"""The percentiles of a plot of latency."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest of ascending values that ``percent`` of all do not exceed.

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no values, no percentile")
    return ordered[max(0, ceil(len(ordered) * percent / 100 - 1e-9) - 1)]


def corrected(seconds: Iterable[float], period_s: float) -> list[float]:
    """Latencies, ascending, with those that a connection left out while it waited.

    A connection that should send every ``period_s`` and waits for ``d`` sends late what was due after one period, two, …; these
    would have waited for ``d - period_s``, ``d - 2 * period_s``, … at least: they are added, as HdrHistogram does when it is
    given an expected interval. What was sent late stays, with the short latency that it had from then on, so a share of slow
    answers comes out smaller than it was by at most the share of what was added.
    """
    found: list[float] = []
    for waited in seconds:
        found.append(waited)
        missing = waited - period_s
        while missing > 0:
            found.append(missing)
            missing -= period_s
    found.sort()
    return found


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; ``curve`` has pairs of percentile and milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    curve: list[tuple[float, float]]


def latency(ordered_s: Sequence[float]) -> Latency:
    """Summarise ascending latencies in seconds. Raises ``ValueError`` when there are none."""
    at = {percent: round(1_000 * percentile(ordered_s, percent), 3) for percent in CURVE}
    return Latency(at[50.0], at[95.0], at[99.0], at[100.0], list(at.items()))

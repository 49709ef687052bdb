"""Latencies of any number of requests in bounded memory."""

from collections import Counter

_EXACT_BELOW = 1_000
"""Values from here on keep their three leading digits: 0.5 % at most are lost."""


class Latencies:
    """Durations in microseconds, and their percentiles."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.max_us = 0

    def add(self, duration_us: int) -> None:
        """Count one."""
        self.max_us = max(self.max_us, duration_us)
        self._counts[_rounded(duration_us)] += 1

    @property
    def count(self) -> int:
        """How many there are."""
        return self._counts.total()

    def percentile_us(self, percent: float) -> int:
        """The smallest duration that at least so many percent do not exceed (nearest rank); 0 when there are none."""
        wanted = max(1.0, self.count * percent / 100)
        seen = 0
        for duration_us in sorted(self._counts):
            seen += self._counts[duration_us]
            if seen >= wanted:
                return min(duration_us, self.max_us)
        return 0


def _rounded(value: int) -> int:
    step = 1
    while value // step >= _EXACT_BELOW:
        step *= 10
    return (value + step // 2) // step * step

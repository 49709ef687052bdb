"""The cache's counters: plain integers, so that counting a hit is one addition. ``app.api.metrics`` shows them."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from .ports import Outcome, Repairs

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """Durations in seconds, counted by upper bound; the last count is of those above all bounds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def __add__(self, other: "Histogram") -> "Histogram":
        both = Histogram()
        both.counts = [mine + others for mine, others in zip(self.counts, other.counts, strict=True)]
        both.total_s = self.total_s + other.total_s
        return both


@dataclass(slots=True)
class Stats:
    """Counters of one process since its start."""

    hits: int = 0
    misses: int = 0
    bypasses: int = 0
    refreshes: int = 0
    unverified: int = 0
    loads: int = 0
    fills: int = 0
    refills: int = 0
    """Loads that a writer began because its slot was empty. They are counted in ``loads``, too."""
    publishes: Counter[Outcome] = field(default_factory=Counter)
    written_keys: Counter[str] = field(default_factory=Counter)
    """Sampled writes that were read before the key's next write (``yes``) or not (``no``)."""
    payload_bytes: int = 0
    """Bytes of payload in publishes that the store answered."""
    publish_failures: int = 0
    settles: int = 0
    settle_timeouts: int = 0
    settle_wait: Histogram = field(default_factory=Histogram)
    adoptions: int = 0
    unexpected: int = 0
    """Unexpected errors, in a publish or in background work, that failed no request."""
    store_read: Histogram = field(default_factory=Histogram)
    store_publish: Histogram = field(default_factory=Histogram)
    source_load: Histogram = field(default_factory=Histogram)
    audits: int = 0
    audit_failures: int = 0
    audit_deferrals: int = 0
    """Audits that set no fence because another server or another namespace is trusted."""
    audit_duration: Histogram = field(default_factory=Histogram)
    last_audit: float | None = None
    """When this process last finished an audit, on its own clock."""
    last_proven: float | None = None
    """When this process last read under a live fence, on its own clock."""
    repairs: Repairs = field(default_factory=Repairs)
    clean_starts: int = 0

    def __add__(self, other: "Stats") -> "Stats":
        """Return the sum with another process's counters. Both need the same clock, because the later moment is kept."""
        both: dict[str, Any] = {}
        for part in fields(self):
            mine, others = getattr(self, part.name), getattr(other, part.name)
            both[part.name] = _later(mine, others) if part.name in _MOMENTS else mine + others
        return Stats(**both)


_MOMENTS = ("last_audit", "last_proven")


def _later(one: float | None, other: float | None) -> float | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)

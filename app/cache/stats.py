"""What the cache counts: plain integers, so that a hit pays one addition. ``app.api.metrics`` shows them."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from app.cache.ports import Outcome, Repairs

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Histogram:
    """Durations in seconds, counted by upper bound; the last count is of those above every bound."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds


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
    publishes: Counter[Outcome] = field(default_factory=Counter)
    publish_failures: int = 0
    settles: int = 0
    settle_timeouts: int = 0
    settle_wait: Histogram = field(default_factory=Histogram)
    adoptions: int = 0
    store_read: Histogram = field(default_factory=Histogram)
    store_publish: Histogram = field(default_factory=Histogram)
    source_load: Histogram = field(default_factory=Histogram)
    audits: int = 0
    audit_failures: int = 0
    audit_duration: Histogram = field(default_factory=Histogram)
    last_audit: float | None = None
    """On the process's own clock, when this process last finished an audit."""
    last_proven: float | None = None
    """On the process's own clock, when this process last read under a live fence."""
    repairs: Repairs = field(default_factory=Repairs)
    purges: int = 0
    purged_slots: int = 0

"""Samples of the last 15 minutes, one a second. A sample has the rates of one second, made from counters read at its ends."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, islice
from struct import Struct

from app.cache.stats import BUCKETS_S

KEPT = 900
"""Samples that are kept."""
WINDOW = 10
"""Samples over which the present figures are formed."""


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of all workers at one moment, and what they had open."""

    at: float
    """Unix time."""
    hits: int = 0
    reads: int = 0
    """Keys read, hits included."""
    writes: int = 0
    """Requests that change something, answered with success."""
    statements: int = 0
    """Statements sent to PostgreSQL."""
    refused: int = 0
    settles: int = 0
    failed: int = 0
    """Requests answered with 5xx."""
    durations: Sequence[int] = ()
    """Durations of requests, counted by bucket (``BUCKETS_S``)."""
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened between two moments, per second, and what was open at the end."""

    at: float
    reads: float
    hit_ratio: float | None
    """Share of the reads that the cache answered; ``None`` without any."""
    writes: float
    saved: float
    """Reads that PostgreSQL was spared."""
    statements: float
    refused: float
    settles: float
    failed: float
    p50_ms: float | None
    """Half of the requests took at most this long; ``None`` without any."""
    p99_ms: float | None
    connections: int


def sample_of(before: Counters, after: Counters) -> Sample:
    """Return what happened between two readings. A counter that went back, because a worker was killed, counts as still."""
    seconds = max(after.at - before.at, 1e-3)

    def rate(name: str) -> float:
        risen: int = getattr(after, name) - getattr(before, name)
        return max(0, risen) / seconds

    reads, saved = rate("reads"), rate("hits")
    earlier = before.durations or [0] * len(after.durations)
    durations = [max(0, mine - others) for mine, others in zip(after.durations, earlier, strict=True)]
    p50, p99 = quantile_ms(durations, 0.5), quantile_ms(durations, 0.99)
    ratio = min(1.0, saved / reads) if reads else None
    return Sample(
        after.at, reads, ratio, rate("writes"), saved, rate("statements"), rate("refused"), rate("settles"), rate("failed"),
        p50, p99, after.connections,
    )  # fmt: skip


def quantile_ms(counts: Sequence[int], share: float) -> float | None:
    """Return the upper bound of the bucket in which ``share`` of the durations end, in milliseconds; ``None`` without any.

    Durations above the last bound are given that bound.
    """
    total = sum(counts)
    if not total:
        return None
    index = next(place for place, reached in enumerate(accumulate(counts)) if reached >= share * total)
    return BUCKETS_S[min(index, len(BUCKETS_S) - 1)] * 1000


_ROW = Struct(f"{len(fields(Sample))}d")


def _packed(sample: Sample) -> bytes:
    values = (getattr(sample, part.name) for part in fields(Sample))
    return _ROW.pack(*(math.nan if value is None else value for value in values))


def _unpacked(row: bytes) -> Sample:
    *rates, connections = _ROW.unpack(row)
    values = [None if math.isnan(value) else value for value in rates]
    return Sample(*values, int(connections))  # type: ignore[arg-type, call-arg]  # packed from the same fields


@dataclass(slots=True)
class Samples:
    """The ring of samples. Each has a number, so that a reader can ask for those that it has not seen."""

    ring: deque[bytes] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Packed, because the whole ring is written to a file twice a second: 900 objects would take 4 ms each time."""
    count: int = 0
    """Number of samples taken, also of those that are not kept any more."""
    recent: deque[Counters] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))

    def add(self, counters: Counters) -> None:
        """Add the sample that ends with these counters."""
        if self.recent:
            self.ring.append(_packed(sample_of(self.recent[-1], counters)))
            self.count += 1
        self.recent.append(counters)

    def present(self, since: float = 0.0) -> tuple[Sample, int] | None:
        """Return the figures of the last samples together, and how many they are; ``None`` before there are any.

        They are ``WINDOW`` samples, but only those that begin after ``since``, as Unix time; the last one at least. So what was
        before something changed is not in the mean.
        """
        earlier = list(self.recent)[:-1]
        if not earlier:
            return None
        kept = [counters for counters in earlier if counters.at >= since] or earlier[-1:]
        return sample_of(kept[0], self.recent[-1]), len(kept)

    def after(self, number: int) -> list[Sample]:
        """Return the samples that are kept and come after the first ``number`` ones."""
        first = self.count - len(self.ring)
        return [_unpacked(row) for row in islice(self.ring, max(0, number - first), None)]

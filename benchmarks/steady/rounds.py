"""The figures of contenders at a fixed rate: medians over several rounds, and ratios round by round."""

from dataclasses import dataclass, field
from statistics import median

from benchmarks.results import Cell, Target
from benchmarks.steady.h2load import Run
from benchmarks.steady.percentiles import Latency, latency

ENOUGH = 0.995
"""The share of the rate that must be reached, or the round does not count."""
MOST_RATIO = 2.0


@dataclass(slots=True)
class Rounds:
    """The rounds of one contender at its rate, in requests/s."""

    label: str
    rate: float
    runs: list[Run] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)

    def add(self, found: Run) -> None:
        """Add a round. Raises ``ValueError`` when nothing was answered."""
        self.runs.append(found)
        self.latencies.append(latency(found.latencies_s))

    @property
    def achieved(self) -> bool:
        """Whether every round reached the rate with no other answers than 200."""
        return all(found.rate >= ENOUGH * self.rate and found.verified for found in self.runs)

    def row(self) -> dict[str, Cell]:
        """Return the row of the table: medians over the rounds, also for the points of the curve."""
        p99 = [found.p99_ms for found in self.latencies]
        curves = zip(*(found.curve for found in self.latencies), strict=True)
        return {
            "contender": self.label,
            "rate_per_s": round(self.rate),
            "achieved_per_s": round(median(found.rate for found in self.runs)),
            "p50_ms": median(found.p50_ms for found in self.latencies),
            "p95_ms": median(found.p95_ms for found in self.latencies),
            "p99_ms": median(p99),
            "p99_from_ms": min(p99),
            "p99_to_ms": max(p99),
            "max_ms": median(found.max_ms for found in self.latencies),
            "added_percent": round(median(100 * found.added / len(found.latencies_s) for found in self.runs), 2),
            "late_ms": round(1_000 * max(found.late_s for found in self.runs), 1),
            "curve": [(points[0][0], median(ms for _, ms in points)) for points in curves],
        }


def judge(ours: Rounds, ceiling: Rounds) -> Target:
    """Return the target for the ratio of both p99s, taken round by round."""
    ratios = [mine.p99_ms / bare.p99_ms for mine, bare in zip(ours.latencies, ceiling.latencies, strict=True)]
    spread = f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f}x) at {ours.rate:,.0f}/s"
    achieved = ours.achieved and ceiling.achieved
    return Target(
        "p99 of a cached GET at half of our own peak rate, of the bare ASGI function's at the same rate",
        f"<= {MOST_RATIO:g}x",
        spread if achieved else f"{spread}, but not every round had its rate and 200s only",
        achieved and median(ratios) <= MOST_RATIO,
    )

"""``python -m benchmarks.latency``: how long a cached GET takes at a fixed rate, for Larder, the ceiling and FastAPI + cashews.

The rate is half of Larder's own peak, which ``wrk -t1 -c32`` measures at the beginning; the ceiling (a bare ASGI function that
answers the same bytes) gets the same rate. cashews gets half of its own peak: at Larder's it would only queue. Requests come
evenly, uniformly over the catalogue's 1,000 products, however long answers take; latencies are corrected for coordinated
omission (``benchmarks/h2load.py``, ``benchmarks/percentiles.py``). Rounds are alternated, the others rest meanwhile; figures
are medians over the rounds, and the ratio is that of two neighbours in one round.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median

from benchmarks import h2load, load, results
from benchmarks.contenders import CASHEWS, CEILING, LARDER, Contender
from benchmarks.course import Course, start_course
from benchmarks.load import Request, write_requests
from benchmarks.percentiles import Latency, latency
from benchmarks.results import Cell, Result, Target
from benchmarks.testbed import run

PEAK_RUNS, PEAK_S = 3, 4
ENOUGH = 0.995
"""Of the rate, or the round does not count."""
MOST_RATIO = 2.0


@dataclass(slots=True)
class Measured:
    """One contender: its rate, and what each round found."""

    contender: Contender
    rate: float
    runs: list[h2load.Run] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)

    def add(self, found: h2load.Run) -> None:
        """Add a round. Raises ``ValueError`` when nothing was answered."""
        self.runs.append(found)
        self.latencies.append(latency(found.latencies_s))

    @property
    def achieved(self) -> bool:
        """Whether every round had the rate, and 200s only."""
        return all(found.rate >= ENOUGH * self.rate and found.verified for found in self.runs)

    def row(self) -> dict[str, Cell]:
        """The table's row: medians over the rounds; the curve's, too."""
        p99 = [found.p99_ms for found in self.latencies]
        curves = zip(*(found.curve for found in self.latencies), strict=True)
        return {
            "contender": self.contender.label,
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


def judge(ours: Measured, ceiling: Measured) -> Target:
    """Compare p99 round by round."""
    ratios = [mine.p99_ms / bare.p99_ms for mine, bare in zip(ours.latencies, ceiling.latencies, strict=True)]
    spread = f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f}x) at {ours.rate:,.0f}/s"
    achieved = ours.achieved and ceiling.achieved
    return Target(
        "p99 of a cached GET at half of our own peak rate, of the bare ASGI function's at the same rate",
        f"<= {MOST_RATIO:g}x",
        spread if achieved else f"{spread}, but not every round had its rate and 200s only",
        achieved and median(ratios) <= MOST_RATIO,
    )


async def _peak(course: Course, contender: Contender) -> float:
    requests = write_requests(course.directory / "peak", [Request("GET", path) for path in course.paths])
    served, found = course.served[contender], []
    async with served.turn(course.probe):
        for _ in range(PEAK_RUNS):
            seen = await load.run(served.url, requests, first=0, seconds=PEAK_S)
            if seen.wrong:
                raise RuntimeError(f"{contender.label} answered {seen.wrong} requests wrongly at its peak")
            found.append(seen.per_second)
    return median(found)


async def measure(rounds: int, seconds: float, chance: Random) -> Result:
    """Measure all."""
    async with start_course([LARDER, CEILING, CASHEWS]) as course:
        peak, other_peak = await _peak(course, LARDER), await _peak(course, CASHEWS)
        paths = chance.choices(course.paths, k=10_007)
        ours, ceiling = Measured(LARDER, peak / 2), Measured(CEILING, peak / 2)
        measured = [ours, ceiling, Measured(CASHEWS, other_peak / 2)]
        for number in range(rounds):
            for one in measured if number % 2 == 0 else reversed(measured):
                served = course.served[one.contender]
                async with served.turn(course.probe):
                    one.add(await h2load.run(served.url, paths, h2load.Load(one.rate, seconds), course.directory))
                print(f"round {number + 1}: {one.contender.label}: {_told(one)}", flush=True)
    return _result(measured, judge(ours, ceiling), (peak, other_peak), rounds, seconds)


def _told(one: Measured) -> str:
    last = one.latencies[-1]
    return f"{one.runs[-1].rate:,.0f}/s, p50 {last.p50_ms:.2f}, p95 {last.p95_ms:.2f}, p99 {last.p99_ms:.2f} ms"


def _result(measured: Sequence[Measured], target: Target, peaks: tuple[float, float], rounds: int, seconds: float) -> Result:
    notes = [
        f"Peaks by wrk -t1 -c32, median of {PEAK_RUNS}: Larder {peaks[0]:,.0f}/s, FastAPI + cashews {peaks[1]:,.0f}/s.",
        f"Medians of {rounds} alternated rounds of {seconds:g} s; p99_from_ms and p99_to_ms are the rounds' extremes.",
        "added_percent: latencies added for what waited unsent; late_ms: how far h2load's sending fell behind at most.",
    ]
    return Result("latency", "Latency of a cached GET at a fixed rate", [one.row() for one in measured], (target,), notes)


def main() -> int:
    """Do it; the exit status is 1 when the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("--rounds", type=int, default=5, help="of each contender (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = run(measure(arguments.rounds, arguments.seconds, Random(arguments.seed)))
    results.write(result)
    for target in result.targets:
        print(f"{'pass' if target.passed else 'MISS'}  {target.claim}: {target.measured} (target: {target.target})")
    return int(not all(target.passed for target in result.targets))


if __name__ == "__main__":
    sys.exit(main())

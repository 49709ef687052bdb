"""``python -m benchmarks.steady.latency``: how long a cached GET takes at a fixed rate, for three contenders.

The rate is half of Larder's own peak, which ``wrk -t1 -c32`` measures at the beginning; the ceiling (a bare ASGI function that
answers the same bytes) gets the same rate. cashews gets half of its own peak: at Larder's it would only queue. Requests come
evenly, uniformly over the catalogue's 1,000 products, however long answers take; latencies are corrected for coordinated
omission (``h2load.py``, ``percentiles.py``). Rounds are alternated, the others rest meanwhile; figures
are medians over the rounds, and the ratio is that of two neighbours in one round.
"""

import argparse
import sys
from collections.abc import Sequence
from random import Random
from statistics import median

from benchmarks import results
from benchmarks.contest import load
from benchmarks.contest.contenders import CASHEWS, CEILING, LARDER, Contender
from benchmarks.contest.environment import Environment, start_environment
from benchmarks.contest.load import Request, write_requests
from benchmarks.results import Result, Target
from benchmarks.steady import h2load
from benchmarks.steady.rounds import Rounds, judge
from tests.harness.loop import run

PEAK_RUNS, PEAK_S = 3, 4


async def _peak(environment: Environment, contender: Contender) -> float:
    requests = write_requests(environment.directory / "peak", [Request("GET", path) for path in environment.paths])
    served, found = environment.served[contender], []
    async with served.turn(environment.probe):
        for _ in range(PEAK_RUNS):
            seen = await load.run(served.url, requests, first=0, seconds=PEAK_S)
            if seen.wrong:
                raise RuntimeError(f"{contender.label} answered {seen.wrong} requests wrongly at its peak")
            found.append(seen.per_second)
    return median(found)


async def measure(rounds: int, seconds: float, chance: Random) -> Result:
    """Measure all."""
    async with start_environment([LARDER, CEILING, CASHEWS]) as environment:
        peak, other_peak = await _peak(environment, LARDER), await _peak(environment, CASHEWS)
        paths = chance.choices(environment.paths, k=10_007)
        ours, ceiling = Rounds(LARDER.label, peak / 2), Rounds(CEILING.label, peak / 2)
        measured = [ours, ceiling, Rounds(CASHEWS.label, other_peak / 2)]
        turns = list(zip((LARDER, CEILING, CASHEWS), measured, strict=True))
        for number in range(rounds):
            for contender, one in turns if number % 2 == 0 else reversed(turns):
                served = environment.served[contender]
                async with served.turn(environment.probe):
                    one.add(await h2load.run(served.url, paths, h2load.Load(one.rate, seconds), environment.directory))
                print(f"round {number + 1}: {one.label}: {_figures_of(one)}", flush=True)
    return _result(measured, judge(ours, ceiling), (peak, other_peak), rounds, seconds)


def _figures_of(one: Rounds) -> str:
    last = one.latencies[-1]
    return f"{one.runs[-1].rate:,.0f}/s, p50 {last.p50_ms:.2f}, p95 {last.p95_ms:.2f}, p99 {last.p99_ms:.2f} ms"


def _result(measured: Sequence[Rounds], target: Target, peaks: tuple[float, float], rounds: int, seconds: float) -> Result:
    notes = [
        f"Peaks by wrk -t1 -c32, median of {PEAK_RUNS}: Larder {peaks[0]:,.0f}/s, FastAPI + cashews {peaks[1]:,.0f}/s.",
        f"Medians of {rounds} alternated rounds of {seconds:g} s; p99_from_ms and p99_to_ms are the rounds' extremes.",
        "added_percent: latencies added for what waited unsent; late_ms: how far h2load's sending fell behind at most.",
    ]
    return Result("latency", "Latency of a cached GET at a fixed rate", [one.row() for one in measured], (target,), notes)


def main() -> int:
    """Measure, write the result, and return 1 if the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.latency")
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

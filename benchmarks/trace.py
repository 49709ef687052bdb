"""``python -m benchmarks.trace --trace FILE``: a recorded night of accesses, on a Redis that cannot hold all of its products.

Each key of the trace is a product of its own, numbered by first appearance; everyone plays the accesses from the first one
on, fills its cache with the same number of them before it is measured, and goes on from where it was in each round.
"""

import asyncio
import sys

import redis

from benchmarks.command import LOOKED_AT, Options, main, row, say, told
from benchmarks.contenders import CASHEWS, LARDER, NO_CACHE, Contender
from benchmarks.course import Course, start_course
from benchmarks.load import write_requests
from benchmarks.race import Case, race, ratio
from benchmarks.results import Result
from benchmarks.workloads import replay, trace_ranks

FILLING = 30_000
"""Accesses before the first measured one."""
PLAYED = 1_000_000
"""The most that is played; the trace may be longer."""
MEMORY = {"maxmemory": "16mb", "maxmemory-policy": "volatile-lfu"}
CONTENDERS = (LARDER, CASHEWS, NO_CACHE)
_TITLE = "A recorded trace of reads"


async def measure(options: Options) -> Result:
    """Race them through the trace, if there is one."""
    if options.trace is None:
        return Result("trace", _TITLE, [], (), ["Not run: no trace was given (make bench TRACE=file)."])
    ranks, products = trace_ranks(options.trace)
    say(f"{len(ranks):,} accesses to {products:,} products")
    async with start_course(CONTENDERS, products=products, redis_options=MEMORY, warm=False) as course:
        requests = write_requests(course.directory / "trace", replay(ranks[:PLAYED], course.paths))
        cases = [Case("trace", contender, requests, reads_only=True) for contender in CONTENDERS]
        outcomes = await race(
            course, cases, rounds=options.rounds, seconds=options.seconds, say=say,
            filled=lambda outcome: FILLING if outcome.case.contender.caches else 0,
        )  # fmt: skip
        seen = [await _seen(course, outcome.case.contender) for outcome in outcomes]
    rows = [
        row(outcome)
        | {"hit ratio": hits, "evicted": evicted, "played": outcome.played}
        | {"Larder is": told(ratio(outcomes[0], outcome))}
        for outcome, (hits, evicted) in zip(outcomes, seen, strict=True)
    ]
    notes = [
        (
            f"The first {PLAYED:,} at most of {len(ranks):,} accesses in {options.trace.name} to {products:,} products:"
            " a product for each key, by first appearance."
        ),
        (
            f"Each has a Redis of {MEMORY['maxmemory']}, {MEMORY['maxmemory-policy']}, and {FILLING:,} accesses to fill it before"
            " it is measured. The hit ratio is that of everything it played, from the first access on, with an empty cache."
        ),
        "Who is faster plays more of the trace in the same time, and has seen more of it.",
        LOOKED_AT,
    ]
    return Result("trace", _TITLE, rows, (), notes)


async def _seen(course: Course, contender: Contender) -> tuple[float | None, int | None]:
    """Give the hit ratio and the evictions."""
    if not contender.caches:
        return None, None
    served = course.served[contender]
    with redis.Redis.from_url(served.redis_url) as client:
        counted = client.info("stats")
    hits, misses = counted["keyspace_hits"], counted["keyspace_misses"]
    if not contender.peer:
        async with served.turn(course.probe):
            hits, misses = _counted((await asyncio.to_thread(served.get, ["/metrics"]))[0].body.decode())
    return hits / (hits + misses), counted["evicted_keys"]


def _counted(metrics: str) -> tuple[float, float]:
    """Larder's hits and other reads by its own count: a miss asks Redis twice, and every read asks for the fence, too."""
    reads = {}
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("larder_cache_reads_total{"):
            reads[name] = float(value)
    hits = sum(value for name, value in reads.items() if 'result="hit"' in name)
    return hits, sum(reads.values()) - hits


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))

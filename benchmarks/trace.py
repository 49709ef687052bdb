"""``python -m benchmarks.trace --trace FILE``: a recorded night of accesses, on a Redis that cannot hold all of its products.

Each key of the trace is a product of its own, numbered by first appearance; everyone plays the accesses from the first one
on, fills its cache with the same number of them before it is measured, and goes on from where it was in each round.
"""

import sys
from pathlib import Path

import httpx
import redis

from benchmarks.command import LOOKED_AT, Options, main, row, say, told
from benchmarks.contenders import CASHEWS, LARDER, NO_CACHE, Served
from benchmarks.course import start_course
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
        seen = [await _seen(course.served[outcome.case.contender]) for outcome in outcomes]
    rows = [
        row(outcome)
        | {"hit ratio": hits, "evicted": evicted, "played": outcome.played, "Larder is": told(ratio(outcomes[0], outcome))}
        for outcome, (hits, evicted) in zip(outcomes, seen, strict=True)
    ]
    notes = [
        f"The first {PLAYED:,} at most of {len(ranks):,} accesses in {_name(options.trace)} to {products:,} products: a product for"
        " each key, by first appearance.",
        f"Each has a Redis of {MEMORY['maxmemory']}, {MEMORY['maxmemory-policy']}, and {FILLING:,} accesses to fill it before it is"
        " measured. The hit ratio is that of everything it played, from the first access on, with an empty cache.",
        "Who is faster plays more of the trace in the same time, and has seen more of it.",
        LOOKED_AT,
    ]
    return Result("trace", _TITLE, rows, (), notes)


def _name(trace: Path) -> str:
    return trace.name


async def _seen(served: Served) -> tuple[float | None, int | None]:
    """The hit ratio and the evictions."""
    if not served.contender.caches:
        return None, None
    with redis.Redis.from_url(served.redis_url) as client:
        told = client.info("stats")
    hits, misses = told["keyspace_hits"], told["keyspace_misses"]
    if not served.contender.peer:
        async with served.turn("/livez"), httpx.AsyncClient() as client:
            hits, misses = _counted((await client.get(f"{served.url}/metrics")).text)
    return hits / (hits + misses), told["evicted_keys"]


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

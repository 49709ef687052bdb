"""``python -m benchmarks.contest.trace --trace FILE``: a recorded night of accesses, on a Redis too small for its products.

Each key of the trace is a product of its own, numbered by first appearance; everyone plays the accesses from the first one
on, fills its cache with the same number of them before it is measured, and goes on from where it was in each round.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.contest.command import LOOKED_AT, Options, format_ratio, main, row, say
from benchmarks.contest.contenders import CASHEWS, LARDER, NO_CACHE, Contender
from benchmarks.contest.contest import Case, contest, ratio
from benchmarks.contest.environment import Environment, start_environment
from benchmarks.contest.load import run, write_requests
from benchmarks.contest.workloads import replay, trace_ranks
from benchmarks.results import Cell, Result

FILLING, FILLING_S = 20_000, 4
"""Accesses before the first measured one, at least, played for so many seconds at a time."""
PLAYED = 500_000
"""The most that is played; the trace may be longer."""
MEMORY = {"maxmemory": "4mb", "maxmemory-policy": "volatile-lfu"}
CONTENDERS = (LARDER, CASHEWS, NO_CACHE)
_TITLE = "A recorded trace of reads"


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """The counts of a cache since its start."""

    hits: float = 0
    misses: float = 0
    evicted: int = 0

    def since(self, earlier: "CacheCounts") -> dict[str, Cell]:
        """Return the columns of what was counted after ``earlier``."""
        reads = self.hits + self.misses - earlier.hits - earlier.misses
        ratio_of_hits = (self.hits - earlier.hits) / reads if reads else None
        return {"hit ratio": ratio_of_hits, "evicted": self.evicted - earlier.evicted}


async def measure(options: Options) -> Result:
    """Let the contenders play the trace, if there is one."""
    if options.trace is None:
        return Result("trace", _TITLE, [], (), ["Not run: no trace was given (make bench TRACE=file)."])
    ranks, products = trace_ranks(options.trace)
    say(f"{len(ranks):,} accesses to {products:,} products")
    async with start_environment(CONTENDERS, products=products, redis_options=MEMORY, warm=False) as environment:
        requests = write_requests(environment.directory / "trace", replay(ranks[:PLAYED], environment.paths))
        cases = [
            Case("trace", contender, requests, first=await _fill(environment, contender, requests), reads_only=True)
            for contender in CONTENDERS
        ]
        filled = [await _counts_of(environment, contender) for contender in CONTENDERS]
        outcomes = await contest(environment, cases, rounds=options.rounds, seconds=options.seconds, say=say)
        counts = [await _counts_of(environment, contender) for contender in CONTENDERS]
    rows = [
        row(outcome)
        | after.since(before)
        | {"played": outcome.played}
        | {"Larder is": format_ratio(ratio(outcomes[0], outcome))}
        for outcome, before, after in zip(outcomes, filled, counts, strict=True)
    ]
    notes = [
        (
            f"The first {PLAYED:,} at most of {len(ranks):,} accesses in {options.trace.name} to {products:,} products:"
            " a product for each key, numbered by first appearance."
        ),
        (
            f"Each cache is a Redis of {MEMORY['maxmemory']}, {MEMORY['maxmemory-policy']}, filled by the first {FILLING:,}"
            " accesses; hit ratio, evictions and what was played are counted from there on, warm-up included."
        ),
        "Each goes on from where it was in the round before; so who is faster has seen more of the trace.",
        LOOKED_AT,
    ]
    return Result("trace", _TITLE, rows, (), notes)


async def _fill(environment: Environment, contender: Contender, requests: Path) -> int:
    """Play the beginning of the trace, and return how many accesses were played."""
    played = FILLING if not contender.caches else 0
    served = environment.served[contender]
    async with served.turn(environment.probe):
        while played < FILLING:
            played += (await run(served.url, requests, first=played, seconds=FILLING_S)).answers
    return played


async def _counts_of(environment: Environment, contender: Contender) -> CacheCounts:
    """Return a cache's counts. Larder's are its own, because it asks Redis twice at a miss, and for the fence at each read."""
    if not contender.caches:
        return CacheCounts()
    served = environment.served[contender]
    with redis.Redis.from_url(served.redis_url) as client:
        counted = client.info("stats")
    if contender.peer:
        return CacheCounts(counted["keyspace_hits"], counted["keyspace_misses"], counted["evicted_keys"])
    async with served.turn(environment.probe):
        metrics = (await asyncio.to_thread(served.get, ["/metrics"]))[0].body.decode()
    return CacheCounts(*_counted(metrics), counted["evicted_keys"])


def _counted(metrics: str) -> tuple[float, float]:
    """Return the numbers of Larder's hits and of its other reads."""
    reads = {}
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("larder_cache_reads_total{"):
            reads[name] = float(value)
    hits = sum(value for name, value in reads.items() if 'result="hit"' in name)
    return hits, sum(reads.values()) - hits


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))

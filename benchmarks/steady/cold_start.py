"""``python -m benchmarks.steady.cold_start``: a cache that is empty, and how long it takes until reads are hits.

Products are drawn uniformly and read at a constant rate (``reader.py``) until 99 % of a second's reads are hits, first by
Larder, then by the textbook. Larder's answers say whether they were hits; the textbook's hits are those that its Redis
counts. Statements are those that PostgreSQL counted at top level, without BEGIN, COMMIT and ROLLBACK; audits are included.
Even a cache that fills every slot at its first read needs as many reads as it takes to draw 99 % of the products once:
4.6 for each product. The column ``best_s`` has the time of that.
"""

import argparse
import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast
from urllib.parse import urlsplit

import psycopg
import redis.asyncio

from benchmarks import results
from benchmarks.contest.contenders import LARDER, TEXTBOOK, Contender, ContenderProcess
from benchmarks.contest.environment import start_environment
from benchmarks.results import Cell, Result
from benchmarks.steady.percentiles import percentile
from benchmarks.steady.reader import Second, reading
from tests.harness.loop import run

ENOUGH = 0.99
CONNECTIONS = 64
_STATEMENTS = rb"""
SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = current_database() AND s.toplevel AND s.query !~* '^\s*(BEGIN|COMMIT|ROLLBACK|CREATE EXTENSION)'
"""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One contender's cold start: its seconds with the share of hits of each, and what PostgreSQL did for them."""

    contender: Contender
    seconds: Sequence[tuple[Second, float]]
    statements: int
    products: int
    rate: float

    @property
    def warm(self) -> bool:
        """Whether the last second had enough hits."""
        return self.seconds[-1][1] >= ENOUGH

    def row(self) -> dict[str, Cell]:
        """The table's row."""
        answers = sum(second.answers for second, _ in self.seconds)
        due = sorted(seconds for second, _ in self.seconds for seconds in second.from_due_s)
        sent = sorted(seconds for second, _ in self.seconds for seconds in second.from_sent_s)
        wrong = sum(count for second, _ in self.seconds for status, count in second.statuses.items() if status != 200)
        return {
            "contender": self.contender.label,
            "99 % hits after s": len(self.seconds) if self.warm else None,
            "best_s": round(self.products * -math.log(1 - ENOUGH) / self.rate),
            "last hits": f"{self.seconds[-1][1]:.1%}",
            "reads/s": round(answers / len(self.seconds)),
            "wrong": wrong,
            "statements": self.statements,
            "reads for each statement": answers / max(1, self.statements),
            "p50 from sent ms": round(1_000 * percentile(sent, 50), 2),
            "p99 from sent ms": round(1_000 * percentile(sent, 99), 2),
            "p99 from due ms": round(1_000 * percentile(due, 99), 2),
            "curve": [(number + 1, round(share, 4)) for number, (_, share) in enumerate(self.seconds)],
        }


async def cold_start(served: ContenderProcess, path: Callable[[], str], products: int, rate: float, limit_s: int) -> ColdStart:
    """Read until it is warm, or the time is over."""
    port = urlsplit(served.url).port or 0
    async with await psycopg.AsyncConnection.connect(served.database_url, autocommit=True) as connection:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    before = _statements(served)
    seconds: list[tuple[Second, float]] = []
    async with redis.asyncio.Redis.from_url(served.redis_url) as client, reading(port, path, rate, CONNECTIONS) as reader:
        hits, misses = await _lookups(client)
        while len(seconds) < limit_s and not (seconds and seconds[-1][1] >= ENOUGH):
            await asyncio.sleep(1)
            second = reader.take()
            now = await _lookups(client)
            looked_up = max(1, now[0] + now[1] - hits - misses)
            share = (now[0] - hits) / looked_up if served.contender.peer else second.hits / max(1, second.answers)
            hits, misses = now
            seconds.append((second, share))
    return ColdStart(served.contender, seconds, _statements(served) - before, products, rate)


def _statements(served: ContenderProcess) -> int:
    [(calls,)] = served.rows(_STATEMENTS)
    return cast("int", calls)


async def _lookups(client: "redis.asyncio.Redis") -> tuple[int, int]:
    stats = await client.info("stats")
    return int(stats["keyspace_hits"]), int(stats["keyspace_misses"])


async def measure(products: int, rate: float, limit_s: int, chance: Random) -> Result:
    """Measure both, one after the other; the other rests meanwhile."""
    found = []
    async with start_environment([LARDER, TEXTBOOK], products=products, warm=False) as environment:
        for contender in (LARDER, TEXTBOOK):
            served = environment.served[contender]
            async with served.turn(environment.probe):
                found.append(await cold_start(served, lambda: chance.choice(environment.paths), products, rate, limit_s))
            print("  ".join(f"{name}={cell}" for name, cell in found[-1].row().items() if name != "curve"), flush=True)
    notes = [
        f"{products:,} products, drawn uniformly, {rate:,.0f} reads/s due on {CONNECTIONS} connections, {limit_s} s at most.",
        "best_s: the time in which 99 % of the products are drawn once at that rate; no cache that fills on reads is faster.",
        "From due: a contender that does not keep the rate falls behind further and further.",
    ]
    return Result("cold_start", "Cold start", [one.row() for one in found], (), notes)


def main() -> int:
    """Measure and write the result; return 1 if Larder did not get warm."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.cold_start")
    parser.add_argument("--products", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=5_000, help="reads/s (default: %(default)s)")
    parser.add_argument("--limit-s", type=int, default=600, help="of each contender (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    result = run(measure(given.products, given.rate, given.limit_s, Random(given.seed)))
    results.write(result)
    return int(result.rows[0]["99 % hits after s"] is None)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.steady.soak``, ``make soak``: whether memory, or anything else, grows.

Two runs, on catalogues of 1,000 and of 1,000,000 products, with the same load over all of it (``mixed_load.py``:
hits, misses, unknown ids, lists, writes, retries, errors) at a constant rate. After a warm-up of two minutes resident memory
of the service is looked at once a second: the mean of the last minute must be within 5 % of that of the first, and the
slope of a straight line through all is told beside it. Both sizes must end within 20 MB of each other.

Before and after, with the load at rest and its connections closed, what is open is counted: file descriptors, asyncio's tasks,
connections to PostgreSQL. ``--trace`` shows where memory grew (and makes it grow: its figures are no result).
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import linear_regression, mean

import psutil
import psycopg

from app.settings import Settings
from benchmarks import results
from benchmarks.results import Cell, Result, Target
from benchmarks.steady.mixed_load import MixedLoad
from benchmarks.steady.pace import at_rate, clock
from benchmarks.steady.testbed import Servers, Service, larder, servers, warm
from benchmarks.steady.testbed import product_id as product
from tests.harness.loop import run

SIZES = (1_000, 1_000_000)
RATE = 300
WARM_UP_MINUTES = 2.0
MOST_GROWTH = 0.05
MOST_BETWEEN_SIZES_MB = 20.0
ENOUGH = 0.99
"""The share of the rate that must be reached, or the run does not count."""
_MB = 1e6
_REST_S = 3.0
_GUARDED_RUN = (sys.executable, "-m", "benchmarks.steady.guarded_run")


@dataclass(frozen=True, slots=True)
class Open:
    """What the service has open at rest. ``descriptors`` are those that are no connection to PostgreSQL."""

    descriptors: int
    tasks: int
    postgres: int
    grown: Sequence[str] = ()

    def grew(self, later: "Open", pool: int) -> list[str]:
        """Return what grew, in words. Connections to PostgreSQL may grow up to the pool's size."""
        found = []
        if later.descriptors > self.descriptors:
            found.append(f"file descriptors from {self.descriptors} to {later.descriptors}")
        if later.tasks > self.tasks:
            found.append(f"tasks from {self.tasks} to {later.tasks}")
        if later.postgres > pool:
            found.append(f"connections to PostgreSQL from {self.postgres} to {later.postgres}, beyond the pool's {pool}")
        return found


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory over time: ``samples`` are pairs of seconds and bytes, ascending in time."""

    samples: Sequence[tuple[float, int]]

    @property
    def first_mb(self) -> float:
        """Mean of the first minute, or of the first third of a shorter run."""
        return self._mean(lambda at, window: at <= self.samples[0][0] + window)

    @property
    def last_mb(self) -> float:
        """Mean of the last minute, or of the last third of a shorter run."""
        return self._mean(lambda at, window: at >= self.samples[-1][0] - window)

    @property
    def growth(self) -> float:
        """From the first to the last minute, as a share of the first."""
        return self.last_mb / self.first_mb - 1

    @property
    def slope_mb_per_hour(self) -> float:
        """The slope of the straight line through all samples."""
        times, sizes = zip(*self.samples, strict=True)
        return float(linear_regression(times, [size / _MB for size in sizes]).slope) * 3_600

    @property
    def most_mb(self) -> float:
        """The largest sample."""
        return max(size for _, size in self.samples) / _MB

    def _mean(self, inside: Callable[[float, float], bool]) -> float:
        window = min(60.0, (self.samples[-1][0] - self.samples[0][0]) / 3)
        return mean(size for at, size in self.samples if inside(at, window)) / _MB


@dataclass(frozen=True, slots=True)
class SoakRun:
    """The run of one size."""

    products: int
    minutes: float
    memory: Memory
    before: Open
    after: Open
    wanted: float
    rate: float
    requests: int
    wrong: Sequence[str]
    pool: int

    @property
    def achieved(self) -> bool:
        """Whether the intended rate was reached with no wrong answers."""
        return self.rate >= ENOUGH * self.wanted and not self.wrong

    def row(self) -> dict[str, Cell]:
        """Return the row of the table."""
        memory = self.memory
        return {
            "products": self.products,
            "minutes": self.minutes,
            "requests": self.requests,
            "per_s": round(self.rate, 1),
            "wrong_answers": len(self.wrong),
            "first_minute_mb": round(memory.first_mb, 2),
            "last_minute_mb": round(memory.last_mb, 2),
            "growth_percent": round(100 * memory.growth, 2),
            "slope_mb_per_hour": round(memory.slope_mb_per_hour, 2),
            "most_mb": round(memory.most_mb, 2),
            "descriptors": f"{self.before.descriptors} -> {self.after.descriptors}",
            "tasks": f"{self.before.tasks} -> {self.after.tasks}",
            "postgres_connections": f"{self.before.postgres} -> {self.after.postgres}",
            "curve": [(round(at), round(size / _MB, 2)) for at, size in memory.samples[::5]],
        }


FILL = (
    "ALTER TABLE products DISABLE TRIGGER zz_larder_change",
    "ALTER TABLE products DISABLE TRIGGER zz_larder_ledger",
    """
    INSERT INTO products (id, name, price_cents, stock, reorder_point)
    SELECT 'p-' || lpad(n::text, 7, '0'), 'Product number ' || n, 100 + n % 9000, 1000, 10
    FROM generate_series(0, {products} - 1) AS n
    """,
    """
    INSERT INTO stock_movements (product_id, version, line, delta, stock_after, reason)
    SELECT id, version, 0, stock, stock, 'opening' FROM products ORDER BY id
    """,
    "ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_change",
    "ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_ledger",
)
"""What the triggers would leave, without their work for each row: version 1, this transaction's id, an opening entry."""


async def fill(started: Servers, products: int) -> None:
    """Insert a whole catalogue in one transaction, before anything serves it."""
    async with await psycopg.AsyncConnection.connect(started.database_url) as connection:
        for statement in FILL:
            await connection.execute(statement.replace("{products}", str(products)).encode())
    async with await psycopg.AsyncConnection.connect(started.database_url, autocommit=True) as connection:
        await connection.execute("VACUUM (ANALYZE) products")
        await connection.execute("VACUUM (ANALYZE) stock_movements")


async def soak(products: int, minutes: float, warm_up: float, *, wanted: float, trace: bool, chance: Random) -> SoakRun:
    """Run one size."""
    async with servers() as started:
        await fill(started, products)
        report = started.directory / "report"
        environment = {"GUARDED_REPORT": str(report)} | ({"GUARDED_TRACE": "1"} if trace else {})
        async with larder(started, environment, command=_GUARDED_RUN) as service:
            await warm(service.endpoint, [f"/products/{product(0)}"])
            load = MixedLoad(service.endpoint, products, chance)
            await at_rate(wanted, 60 * warm_up, load)
            before = await _look(started, service, report)
            samples: list[tuple[float, int]] = []
            sampling = asyncio.create_task(_sample(service.pid, samples))
            paced = await at_rate(wanted, 60 * minutes, load)
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            after = await _look(started, service, report)
    rate = paced.begun / max(paced.seconds, 60 * minutes)
    pool = Settings.from_env({}).database_connections
    return SoakRun(
        products, minutes, Memory(samples), before, after, wanted, rate, sum(load.answers.values()), load.wrong, pool
    )


async def _sample(pid: int, samples: list[tuple[float, int]]) -> None:
    process = psutil.Process(pid)
    began = clock()
    while True:
        samples.append((clock() - began, process.memory_info().rss))
        await asyncio.sleep(1)


async def _look(started: Servers, service: Service, report: Path) -> Open:
    service.endpoint.close()
    await asyncio.sleep(_REST_S)  # an audit or two, and the end of what the closed connections leave behind
    report.unlink(missing_ok=True)
    os.kill(service.pid, signal.SIGUSR1)
    async with asyncio.timeout(60):
        while not report.exists():  # noqa: ASYNC110 - another process sets no events
            await asyncio.sleep(0.05)
    told = json.loads(report.read_text())
    async with await psycopg.AsyncConnection.connect(started.database_url) as connection:
        cursor = await connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'larder'")
        [postgres] = await cursor.fetchone() or (0,)
    descriptors = psutil.Process(service.pid).num_fds() - postgres
    return Open(descriptors, told["tasks"], postgres, told["grown"])


def judge(found: Sequence[SoakRun]) -> list[Target]:
    """Return the targets of each size by itself, and of all sizes beside one another."""
    targets = []
    for one in found:
        memory, grew = one.memory, one.before.grew(one.after, one.pool)
        load = f"{one.rate:.0f} requests/s, {len(one.wrong)} wrong answers"
        targets += [
            Target(
                f"resident memory after warm-up, over {one.minutes:g} minutes, {one.products:,} products",
                f"within {MOST_GROWTH:.0%}",
                f"{100 * memory.growth:+.1f} % ({memory.first_mb:.1f} to {memory.last_mb:.1f} MB; {load})",
                one.achieved and abs(memory.growth) <= MOST_GROWTH,
            ),
            Target(
                f"descriptors, tasks, connections to PostgreSQL at rest, {one.products:,} products",
                "none grow",
                ", ".join(grew) or "none grew",
                one.achieved and not grew,
            ),
        ]
    ends = [one.memory.last_mb for one in found]
    if len(found) > 1:
        told = ", ".join(f"{one.memory.last_mb:.1f} MB for {one.products:,} products" for one in found)
        fits = max(ends) - min(ends) <= MOST_BETWEEN_SIZES_MB
        targets.append(
            Target(
                "resident memory for catalogues of different size",
                f"within {MOST_BETWEEN_SIZES_MB:g} MB",
                f"{max(ends) - min(ends):.1f} MB apart: {told}",
                fits and all(one.achieved for one in found),
            )
        )
    return targets


async def measure(
    sizes: Sequence[int], minutes: float, warm_up: float, *, wanted: float, trace: bool, chance: Random
) -> Result:
    """Run every size."""
    found = []
    notes = [f"{wanted:g} requests/s after a warm-up of {warm_up:g} minutes; resident memory of the one process, each second."]
    for products in sizes:
        one = await soak(products, minutes, warm_up, wanted=wanted, trace=trace, chance=chance)
        found.append(one)
        print("  ".join(f"{name}={value}" for name, value in one.row().items() if name != "curve"), flush=True)
        notes += [f"{products:,} products: {line}" for line in (*one.wrong[:5], *one.after.grown)]
    return Result("soak", "Soak", [one.row() for one in found], judge(found), notes)


def main() -> int:
    """Run both sizes, write the result, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.soak")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each size, after the warm-up (default: %(default)g)")
    parser.add_argument("--warm-up", type=float, default=WARM_UP_MINUTES, help="minutes (default: %(default)g)")
    parser.add_argument("--products", type=int, nargs="+", default=list(SIZES), help="sizes (default: 1000 and 1000000)")
    parser.add_argument("--rate", type=float, default=RATE, help="requests/s (default: %(default)s)")
    parser.add_argument("--trace", action="store_true", help="show where memory grew; not for results")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    wanted, chance = given.rate, Random(given.seed)
    result = run(measure(given.products, given.minutes, given.warm_up, wanted=wanted, trace=given.trace, chance=chance))
    if not given.trace:
        results.write(result)
    for note in result.notes:
        print(f"      {note}")
    for target in result.targets:
        print(f"{'pass' if target.passed else 'MISS'}  {target.claim}: {target.measured} (target: {target.target})")
    return int(not all(target.passed for target in result.targets))


if __name__ == "__main__":
    sys.exit(main())

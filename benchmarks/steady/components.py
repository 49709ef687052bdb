"""``python -m benchmarks.steady.components``: what operations cost in one process on real servers; and stampedes.

Each operation is done one at a time (latency) and 32 at a time (throughput); each miss and each write on an empty
slot has a product of its own that nobody asked for before. Counted, not assumed: Redis round trips by ``INFO
commandstats`` (each runs the script that asks ``INFO`` once), publishes by the cache's own counters, and leases by the scripts
that remain: an idle process makes four round trips a second, which take none. PostgreSQL's
statements by ``pg_stat_statements`` at top level, without ``BEGIN`` and ``COMMIT``, which it does not count once they
are prepared. Audits are put off: every count is that of the operations. ``hit`` and ``304`` go through the whole ASGI
application, the others through the service below it.

A stampede: 1,000 readers wait for one cold product at once, in process and over HTTP on 1,000 connections; its loads are the
``LOAD`` statements that PostgreSQL saw.
"""

import argparse
import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import redis.asyncio
from fastapi import FastAPI
from starlette.types import Message

from app.api.context import Larder
from app.cache.ports import Value
from app.cache.stats import Stats
from app.cache.write_through import Peeked, Status
from app.main import create_app
from app.products.commands import set_stock
from app.settings import Settings
from benchmarks import results
from benchmarks.results import Cell, Result, Target
from benchmarks.steady import statements
from benchmarks.steady.pace import clock
from benchmarks.steady.percentiles import percentile
from benchmarks.steady.testbed import Servers, larder, product_id, servers, warm
from tests.harness.loop import run
from tests.harness.servers import know_history

AT_ONCE = 32
WARM = 2_000
"""Products 0 to ``WARM`` - 1 are cached before anything is measured."""
CROWD = 1_000
STAMPEDES = 5
MOST_LOADS = 2
PUT_OFF = {
    "LARDER_AUDIT_INTERVAL_MS": "60000",
    "LARDER_FENCE_TTL_MS": "500000",
    "LARDER_FENCE_TTL_MAX_MS": "500000",
    "LARDER_REQUEST_TIMEOUT_MS": "600000",
}
_UNCOUNTED = frozenset({"BEGIN", "COMMIT", "ROLLBACK"})
_HIT = b"larder; hit"
_POLL_S = 0.02

Do = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done to a product; ``cold``: each time to another one that nobody has asked for; ``times`` one at a time."""

    name: str
    do: Do
    times: int
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """Redis round trips, those of them that publish, scripts but for the one of each round trip, PostgreSQL's statements and
    its transactions of writes.
    """

    trips: int
    publishes: int
    scripts: int
    statements: int
    writes: int

    def since(self, before: "Counts") -> "Counts":
        """What came between."""
        return Counts(
            self.trips - before.trips,
            self.publishes - before.publishes,
            self.scripts - before.scripts,
            self.statements - before.statements,
            self.writes - before.writes,
        )

    @property
    def leases(self) -> int:
        """Scripts that take leases. Those of a write are round trips by themselves, those of a read may come with it."""
        return self.scripts - self.publishes


@dataclass(frozen=True, slots=True)
class Cost:
    """One operation's figures: ``alone`` counted over ``times``, ``together`` over ``times_together``."""

    operation: Operation
    p50_ms: float
    p99_ms: float
    per_s: float
    times_together: int
    alone: Counts
    together: Counts

    def row(self) -> dict[str, Cell]:
        """The table's row."""
        times, together = self.operation.times, self.times_together
        return {
            "operation": self.operation.name,
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            f"per_s_{AT_ONCE}_at_once": round(self.per_s),
            "redis_round_trips": round(self.alone.trips / times, 3),
            "lease_scripts": round(self.alone.leases / times, 3),
            "postgres_statements": round(self.alone.statements / times, 3),
            f"redis_round_trips_{AT_ONCE}_at_once": round(self.together.trips / together, 3),
            f"postgres_statements_{AT_ONCE}_at_once": round(self.together.statements / together, 3),
        }


class Application:
    """The ASGI application without a server."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def get(self, product: str, tag: bytes = b"") -> int:
        """GET a product that must be a hit; its status."""
        path = f"/products/{product}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1"), *([(b"if-none-match", tag)] if tag else [])],
        }
        told: list[Message] = []

        async def send(message: Message) -> None:
            told.append(message)

        await self._app(scope, _nothing_more, send)
        status: int = told[0]["status"]
        if (b"cache-status", _HIT) not in told[0]["headers"]:
            raise RuntimeError(f"GET {path} was no hit: {told[0]}")
        return status


async def _nothing_more() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def operations(app: FastAPI, scale: float) -> list[Operation]:
    """What is measured; ``scale`` multiplies how often."""
    served, products = Application(app), _state(app).products
    stock = itertools.count(2_000)

    async def hit(product: str) -> None:
        _expect(await served.get(product), 200)

    async def unchanged(product: str) -> None:
        _expect(await served.get(product, b'"1"'), 304)

    async def peek(product: str) -> None:
        answer: asyncio.Future[Peeked] = asyncio.get_running_loop().create_future()
        products.peek(product, answer.set_result)
        _expect(type(await answer), Value)

    async def miss(product: str) -> None:
        read = await products.get(product)
        _expect((read.status.value, isinstance(read.state, Value)), ("stored", True))

    async def write(product: str) -> None:
        await products.write(set_stock(product, next(stock)))

    return [
        Operation("304, ASGI", unchanged, round(5_000 * scale)),
        Operation("hit, ASGI", hit, round(5_000 * scale)),
        Operation("hit, cache alone", peek, round(5_000 * scale)),
        Operation("miss, filled", miss, round(2_000 * scale), cold=True),
        Operation("write, slot filled", write, round(1_000 * scale)),
        Operation("write, slot empty", write, round(1_000 * scale), cold=True),
    ]


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise RuntimeError(f"expected {wanted}, got {found}")


def _state(app: FastAPI) -> Larder:
    state: Larder = app.state.larder
    return state


class Bench:
    """Measures operations on one application."""

    def __init__(self, started: Servers, client: "redis.asyncio.Redis", chance: Random) -> None:
        self._started = started
        self._client = client
        self._chance = chance
        self._cold = itertools.count(WARM)
        self._looks = 0
        self.stats = Stats()
        """The counters of the application's cache, once it runs."""

    async def measure(self, operation: Operation) -> Cost:
        """Measure the operation one at a time, then ``AT_ONCE`` at a time."""
        times = operation.times
        taken = []
        before = await self.counts()
        for product in self._products(operation, times):
            began = clock()
            await operation.do(product)
            taken.append(clock() - began)
        between = await self.counts()
        together = 4 * times
        waiting = self._products(operation, together)
        began = clock()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(_work(operation.do, waiting))
        seconds = clock() - began
        after = await self.counts()
        taken.sort()
        p50_ms, p99_ms = 1_000 * percentile(taken, 50), 1_000 * percentile(taken, 99)
        return Cost(operation, p50_ms, p99_ms, together / seconds, together, between.since(before), after.since(between))

    async def counts(self) -> Counts:
        """Look at both servers."""
        stats = await self._client.info("commandstats")
        round_trips = _calls(stats, "info") - self._looks
        self._looks += 1  # this look counts from the next one on
        seen = await statements.look(self._started.postgres)
        counted = sum(calls for name, calls in seen.calls.items() if name not in _UNCOUNTED)
        scripts = _calls(stats, "evalsha") - round_trips
        return Counts(round_trips, sum(self.stats.store_publish.counts), scripts, counted, seen.writes)

    async def loads(self) -> int:
        """LOAD statements so far."""
        return (await statements.look(self._started.postgres)).calls["LOAD"]

    def cold(self) -> str:
        """A product that nobody asked for."""
        return product_id(next(self._cold))

    def _products(self, operation: Operation, times: int) -> Iterator[str]:
        if operation.cold:
            return iter([self.cold() for _ in range(times)])
        return iter([product_id(self._chance.randrange(WARM)) for _ in range(times)])


async def _work(do: Do, waiting: Iterator[str]) -> None:
    for product in waiting:
        await do(product)


def _calls(stats: dict[str, dict[str, int]], name: str) -> int:
    return stats.get(f"cmdstat_{name}", {}).get("calls", 0)


@asynccontextmanager
async def application(started: Servers, settings: Mapping[str, str] | None = None) -> AsyncIterator[FastAPI]:
    """The application in this process, its audits put off."""
    given = {"LARDER_ACCESS": "open", "LARDER_DATABASE_URL": started.database_url, "LARDER_REDIS_URL": started.redis.url}
    app = create_app(Settings.from_env({**PUT_OFF, **given, **(settings or {})}))
    async with app.router.lifespan_context(app):
        yield app


async def measure(scale: float, chance: Random) -> Result:
    """Measure everything."""
    async with servers() as started:
        await started.fill(WARM + round(20_000 * scale) + 2 * STAMPEDES)
        # So that the first audit proves the cache: nobody ever had a fence of this new database.
        await know_history(started.database_url, Settings.from_env({}).cache_namespace)
        client = redis.asyncio.Redis.from_url(started.redis.url)
        try:
            bench = Bench(started, client, chance)
            async with application(started) as app:
                [bench.stats] = _state(app).stats.values()
                products = _state(app).products
                # Before the first audit nothing is cached.
                while (await products.get(product_id(0))).status is not Status.HIT:  # noqa: ASYNC110 - the audit sets no events
                    await asyncio.sleep(_POLL_S)
                for number in range(WARM):
                    await products.get(product_id(number))
                costs = [await bench.measure(operation) for operation in operations(app, scale)]
                inside = [await _stampede(bench, lambda product: _read(app, product)) for _ in range(STAMPEDES)]
            over_http = await _stampedes_over_http(started, bench)
        finally:
            await client.aclose()
    return Result(
        "components",
        "Components, without HTTP",
        [cost.row() for cost in costs],
        [judge(costs[-2], costs[-1]), *(_herd(*told) for told in (("in process", inside), ("over HTTP", over_http)))],
        [
            f"p50 and p99 one at a time; the columns that say so, {AT_ONCE} at a time.",
            "postgres_statements: at top level, without BEGIN and COMMIT.",
            "redis_round_trips: with four a second that an idle process makes.",
            f"Loads of {STAMPEDES} stampedes: in process {inside}, over HTTP {over_http}.",
        ],
    )


async def _read(app: FastAPI, product: str) -> None:
    read = await _state(app).products.get(product)
    _expect(type(read.state), Value)


async def _stampede(bench: Bench, read: Do) -> int:
    product = bench.cold()
    before = await bench.loads()
    await asyncio.gather(*(read(product) for _ in range(CROWD)))
    return await bench.loads() - before


async def _stampedes_over_http(started: Servers, bench: Bench) -> list[int]:
    async with larder(started) as service:

        async def get(product: str) -> None:
            _expect((await service.endpoint.request("GET", f"/products/{product}")).status, 200)

        await warm(service.endpoint, [f"/products/{product_id(0)}"])
        # Opens the connections: all wait at once.
        await asyncio.gather(*(get(product_id(0)) for _ in range(CROWD)))
        return [await _stampede(bench, get) for _ in range(STAMPEDES)]


def judge(filled: Cost, empty: Cost) -> Target:
    """Count what a write awaits of Redis: after its transaction, and before it, alone and in joined batches."""
    told, passed = [], True
    for cost, before_allowed in ((filled, 0), (empty, 1)):
        for how, counts in (("alone", cost.alone), (f"{AT_ONCE} at once", cost.together)):
            after = counts.publishes / counts.writes
            before = counts.leases / counts.writes
            told.append(f"{cost.operation.name} {how}: {before:.2f} before, {after:.2f} after")
            passed = passed and after <= 1 and before <= before_allowed
    shared = [cost.times_together / cost.together.writes for cost in (filled, empty)]
    return Target(
        "write-through's own cost beside the Postgres transaction, awaited Redis round trips per transaction",
        "<= 1 after it, plus at most 1 before it where the slot is empty, both shared by a joined batch",
        f"{'; '.join(told)}; {shared[0]:.1f} and {shared[1]:.1f} writes share a transaction",
        passed and min(shared) > 1,
    )


def _herd(where: str, loads: list[int]) -> Target:
    return Target(
        f"loads of one cold product that {CROWD:,} readers wait for, {where}",
        f"<= {MOST_LOADS}",
        f"{max(loads)} at most in {len(loads)} stampedes",
        1 <= max(loads) <= MOST_LOADS,
    )


def main() -> int:
    """Measure, write the result, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.components")
    parser.add_argument("--scale", type=float, default=1.0, help="of how often each operation is done (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = run(measure(arguments.scale, Random(arguments.seed)))
    results.write(result)
    for row in result.rows:
        print("  ".join(f"{name}={value}" for name, value in row.items()))
    for target in result.targets:
        print(f"{'pass' if target.passed else 'MISS'}  {target.claim}: {target.measured} (target: {target.target})")
    return int(not all(target.passed for target in result.targets))


if __name__ == "__main__":
    sys.exit(main())

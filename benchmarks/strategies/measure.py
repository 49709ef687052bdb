"""One run of one policy: private servers, the mix at saturation and then at a fixed rate, every answer checked."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import psutil
import psycopg
import redis.asyncio

from benchmarks.steady.pace import at_rate
from benchmarks.steady.percentiles import percentile
from benchmarks.steady.testbed import Servers, Service, larder, product_id, servers, warm
from benchmarks.strategies.mixes import Mix, endless
from benchmarks.strategies.scrapes import Scrape, Traffic
from tests.harness.checker import Read, Write, check

CLIENTS = 16
WARM_UP_S = 1.0
_VERSION = re.compile(rb'"version": ?(\d+)')
_FILL = """
INSERT INTO products (id, name, price_cents, stock, reorder_point)
SELECT 'p-' || lpad(n::text, 7, '0'), %s, 100 + n %% 9000, 1000, 10 FROM generate_series(0, %s - 1) AS n
"""
_STATEMENTS = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE toplevel"
_NAME_CHARACTERS = 200
_WITHOUT_NAME = 190
"""About the length of a product's body without its name."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What every run does."""

    mix: Mix
    payload: int
    redis_memory: str
    rate: float
    seconds: float


@dataclass(slots=True)
class Run:
    """What one run measured. Times are in seconds, resources are those of Larder, PostgreSQL and Redis at saturation."""

    policy: str
    requests: int = 0
    writes: int = 0
    took_s: float = 0.0
    cpu_s: float = 0.0
    statements: int = 0
    redis_bytes: int = 0
    redis_memory: int = 0
    redis_limit: int = 0
    evicted: int = 0
    payload: int = 0
    hit_ratio: float = 0.0
    loads: int = 0
    settled: int = 0
    read_s: list[float] = field(default_factory=list)
    write_s: list[float] = field(default_factory=list)
    refused: int = 0
    """Requests that were answered 503 because too many waited, at either pace."""
    checked: int = 0
    stale: int = 0
    lost: int = 0


class _Clients:
    """Sends the steps and records every answer for the checker."""

    def __init__(self, service: Service, mix: Mix) -> None:
        self._service = service
        self._next = endless(mix.steps)
        self._stock = 0
        self.refused = 0
        self.reads: list[Read] = []
        self.writes: list[Write] = []
        self.read_s: list[float] = []
        self.write_s: list[float] = []

    async def step(self, meant: float | None = None) -> None:
        """Take the next step. ``meant`` is when it should have begun, and its latency counts from there."""
        is_read, number = self._next()
        key = product_id(number)
        called = time.monotonic()
        if is_read:
            answer = await self._service.endpoint.request("GET", f"/products/{key}")
        else:
            self._stock = self._stock % 1_000_000 + 1
            body = b'{"stock": %d}' % self._stock
            answer = await self._service.endpoint.request("PUT", f"/products/{key}/stock", body=body)
        returned = time.monotonic()
        if answer.status == 503:
            self.refused += 1
            if not is_read:
                self.writes.append(Write(key, called, returned, None, acknowledged=False))
            return
        found = _VERSION.search(answer.body)
        if answer.status != 200 or found is None:
            raise RuntimeError(f"{'GET' if is_read else 'PUT'} of {key} was answered {answer.status}: {answer.body[:200]!r}")
        version = int(found[1])
        if is_read:
            flagged = "unverified" in answer.header(b"cache-status")
            self.reads.append(Read(key, called, returned, version, flagged))
            self.read_s.append(returned - (meant or called))
        else:
            self.writes.append(Write(key, called, returned, version, acknowledged=True))
            self.write_s.append(returned - (meant or called))

    async def saturate(self, seconds: float) -> float:
        """Keep all clients busy; return how long that was."""
        began = time.monotonic()

        async def one() -> None:
            while time.monotonic() < began + seconds:
                await self.step()

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(one())
        return time.monotonic() - began


async def measure(policy: str, workload: Workload) -> Run:
    """Start everything, run the mix under a policy, and stop everything."""
    memory = {"maxmemory": workload.redis_memory, "maxmemory-policy": "volatile-lfu"} if workload.redis_memory else {}
    async with servers(redis_options=memory) as started:
        async with await psycopg.AsyncConnection.connect(started.database_url, autocommit=True) as connection:
            await connection.execute(_FILL, [_name(workload.payload), workload.mix.products])
            await connection.execute("VACUUM ANALYZE")
        async with larder(started, {"LARDER_WRITES": f"products={policy}"}) as service:
            await warm(service.endpoint, [f"/products/{product_id(0)}"])
            clients = _Clients(service, workload.mix)
            await clients.saturate(WARM_UP_S)
            run = await _observed(policy, started, service, clients, workload.seconds)
            clients.read_s.clear()
            clients.write_s.clear()
            await at_rate(workload.rate, workload.seconds, _of(clients))
            run.read_s, run.write_s = sorted(clients.read_s), sorted(clients.write_s)
            verdict = check(clients.reads, clients.writes)
            run.checked, run.stale = verdict.checked, len(verdict.violations)
            run.refused = clients.refused
            run.lost = await _lost(started, clients.writes)
            return run


def _of(clients: _Clients) -> Callable[[float], Awaitable[None]]:
    async def operation(meant: float) -> None:
        await clients.step(meant)

    return operation


async def _observed(policy: str, started: Servers, service: Service, clients: _Clients, seconds: float) -> Run:
    run = Run(policy)
    used = processes(started, service)
    before, statements, info = await _scrape(service), await _statements(started), await redis_info(started)
    writes, requests, cpu_before_s = len(clients.writes), len(clients.reads) + len(clients.writes), cpu_s(used)
    run.took_s = await clients.saturate(seconds)
    run.cpu_s = cpu_s(used) - cpu_before_s
    run.requests = len(clients.reads) + len(clients.writes) - requests
    run.writes = len(clients.writes) - writes
    later = await redis_info(started)
    run.statements = await _statements(started) - statements
    traffic = Traffic(before, await _scrape(service))
    run.redis_bytes = later["total_net_input_bytes"] - info["total_net_input_bytes"]
    run.evicted = later["evicted_keys"] - info["evicted_keys"]
    run.redis_memory, run.redis_limit = later["used_memory"], later["maxmemory"] or later["total_system_memory"]
    run.hit_ratio = traffic.hit_ratio or 0.0
    run.loads = int(traffic.count("larder_cache_loads_total"))
    run.settled = int(traffic.count("larder_cache_settles_total"))
    run.payload = int(traffic.payload or 0)
    return run


async def _scrape(service: Service) -> Scrape:
    await asyncio.sleep(1.1)  # /metrics is made at most once a second
    return Scrape.of((await service.endpoint.request("GET", "/metrics")).body.decode())


async def _statements(started: Servers) -> int:
    async with await psycopg.AsyncConnection.connect(started.database_url, autocommit=True) as connection:
        [calls] = await (await connection.execute(_STATEMENTS)).fetchone() or (0,)
        return int(calls)


async def redis_info(started: Servers) -> dict[str, int]:
    """Return the whole numbers of Redis's ``INFO``."""
    async with redis.asyncio.Redis.from_url(started.redis.url) as client:
        info = await client.info()
        return {name: int(value) for name, value in info.items() if isinstance(value, int)}


def processes(started: Servers, service: Service) -> list[psutil.Process]:
    """Return Larder, PostgreSQL's postmaster and Redis; children are added up when they are asked."""
    postmaster = int((started.postgres.data_dir / "postmaster.pid").read_text().split()[0])
    pid_file = started.redis.directory / "redis.pid"
    return [psutil.Process(pid) for pid in (service.pid, postmaster, int(pid_file.read_text()))]


def cpu_s(used: Sequence[psutil.Process]) -> float:
    """Return the processor time of processes and their living children, in seconds."""
    total = 0.0
    for process in used:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    return total


async def _lost(started: Servers, writes: Sequence[Write]) -> int:
    """Return how many products are older in the database than their newest acknowledged write."""
    newest: dict[str, int] = {}
    for write in writes:
        if write.acknowledged:
            newest[write.key] = max(newest.get(write.key, 0), write.version or 0)
    async with await psycopg.AsyncConnection.connect(started.database_url, autocommit=True) as connection:
        cursor = await connection.execute("SELECT id, version FROM products WHERE id = ANY(%s)", [list(newest)])
        stored: dict[str, int] = dict(await cursor.fetchall())
    return sum(stored.get(key, 0) < version for key, version in newest.items())


def _name(payload: int) -> str:
    """Return a product name with which a body has about ``payload`` bytes: longer ones have characters of four bytes."""
    wanted = min(max(payload - _WITHOUT_NAME, 1), 4 * _NAME_CHARACTERS)
    wide = max(0, -(-(wanted - _NAME_CHARACTERS) // 3))
    return "🫖" * wide + "n" * (min(wanted, _NAME_CHARACTERS) - wide)


def milliseconds(ordered_s: Sequence[float], percent: float) -> float | None:
    """Return a percentile in milliseconds; ``None`` without values."""
    return round(1_000 * percentile(ordered_s, percent), 2) if ordered_s else None

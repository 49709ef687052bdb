"""``python -m benchmarks.steady.partitions``: what a divided namespace costs a hit, and what a lost node costs the others.

Three services, each one process with a database and a Redis of its own: a namespace that is not divided; one of 64 partitions
on one server; and one of 64 partitions on three masters. In each round every one of them answers the same reads under ``wrk``
for some seconds, in random order, while the others are stopped; ratios are taken within a round.

Then one master of the three hangs (SIGSTOP), another one in each round. Reads come at a fixed rate (``h2load``), of products of
all masters. The latency of products whose masters live is compared with that of as many seconds before. The moment in which
the master stops is part of the figures. No read may fail, and products of the others have to stay hits.
"""

import argparse
import asyncio
import operator
import os
import random
import signal
import statistics
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import redis.asyncio
from psycopg.conninfo import conninfo_to_dict

from app.cache.partitions import Partitions
from app.private_servers import RedisServer, free_ports, start_redis
from app.products.source import PRODUCTS
from app.settings import Settings
from benchmarks.contest import load, workloads
from benchmarks.steady import h2load
from benchmarks.steady.percentiles import Latency, latency
from benchmarks.steady.testbed import Servers, Service, hit, larder, product_id, servers, warm
from tests.harness.loop import run
from tests.harness.redis_cluster import RedisCluster, start_redis_cluster
from tests.harness.servers import beside, create_database

CATALOGUE = 1_000
PARTITIONS = 64
LEAST_SHARE = 0.70
MOST_RATIO = 2.0
PATHS = [f"/products/{product_id(number)}" for number in range(CATALOGUE)]
_REQUESTS = 20_000
_SAMPLE = 25
_PAUSE_AT = 0.1
"""When the master stops, as a share of the measured seconds."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the three services, with the figures of each round: hits per second, and processor time for a hit."""

    label: str
    service: Service
    stores: Sequence[int]
    """The processes of its Redis."""
    rates: list[float] = field(default_factory=list)
    service_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)

    def signal(self, number: signal.Signals) -> None:
        """Stop the process, or let it go on."""
        os.kill(self.service.pid, number)

    async def measure(self, requests: Path, first: int, seconds: int) -> None:
        """Add a round. Raises ``RuntimeError`` if an answer was wrong, or is no hit afterwards."""
        await warm(self.service.endpoint, PATHS)
        before = [_processor_s(pids) for pids in ([self.service.pid], self.stores)]
        found = await load.run(self.service.url, requests, first=first, seconds=seconds)
        after = [_processor_s(pids) for pids in ([self.service.pid], self.stores)]
        if found.wrong or not await all_hits(self.service, random.sample(PATHS, _SAMPLE)):
            raise RuntimeError(f"{self.label}: {found.wrong} of {found.answers} answers were wrong, or some were no hits")
        self.rates.append(found.per_second)
        for figures, spent_s in zip((self.service_us, self.redis_us), map(operator.sub, after, before), strict=True):
            figures.append(1e6 * spent_s / found.answers)


def _processor_s(pids: Sequence[int]) -> float:
    """Return the processor time of processes and their children so far."""
    parents = [psutil.Process(pid) for pid in pids]
    family = [process for parent in parents for process in (parent, *parent.children(recursive=True))]
    return sum(times.user + times.system for times in (process.cpu_times() for process in family))


async def _pid(url: str) -> int:
    async with redis.asyncio.Redis.from_url(url) as client:
        return int((await client.info("server"))["process_id"])


async def all_hits(service: Service, paths: Sequence[str]) -> bool:
    """Return whether every read of these is answered by the proven cache."""
    return all([await hit(service.endpoint, path) for path in paths])


@asynccontextmanager
async def sides(started: Servers, cluster: RedisCluster) -> AsyncIterator[Sequence[Side]]:
    """Start the three services, each on a copy of the filled database."""
    divided = {"LARDER_CACHE_PARTITIONS": str(PARTITIONS)}
    async with AsyncExitStack() as opened:
        second = await start_redis(started.directory / "second", ports=free_ports())
        opened.push_async_callback(second.stop)
        given: Sequence[tuple[str, Sequence[RedisServer], Mapping[str, str]]] = (
            ("not divided, one Redis", [started.redis], {}),
            (f"{PARTITIONS} partitions, one Redis", [second], divided),
            (f"{PARTITIONS} partitions, 3 masters", cluster.servers, divided),
        )
        found = []
        template = str(conninfo_to_dict(started.database_url)["dbname"])
        for number, (label, stores, settings) in enumerate(given):
            url = await create_database(beside(started.database_url, "postgres"), f"side_{number}", template=template)
            own = {"LARDER_DATABASE_URL": url, "LARDER_REDIS_URL": stores[0].url, **settings}
            service = await opened.enter_async_context(larder(started, own))
            found.append(Side(label, service, [await _pid(store.url) for store in stores]))
        yield found
        for side in found:  # or none could end
            side.signal(signal.SIGCONT)


async def alternate(found: Sequence[Side], requests: Path, rounds: int, seconds: int) -> None:
    """Measure every side once in each round, while the others are stopped."""
    for side in found:
        side.signal(signal.SIGSTOP)
    for number in range(rounds):
        for side in random.sample(found, len(found)):
            side.signal(signal.SIGCONT)
            await side.measure(requests, number * 1_000, seconds)
            side.signal(signal.SIGSTOP)


@dataclass(frozen=True, slots=True)
class Outage:
    """Latencies of products of the masters that live, before and while another one hangs, and whether they stayed hits."""

    before: Latency
    during: Latency
    hits: bool
    slowest_lost_ms: float
    """The slowest read of a product of the master that hangs."""


async def outage(side: Side, cluster: RedisCluster, lost: RedisServer, pace: h2load.Load, directory: Path) -> Outage:
    """Stop one master. Raises ``RuntimeError`` if a read failed."""
    namespace = Settings.from_env({}).cache_namespace
    divided = Partitions(replace(PRODUCTS, namespace=namespace).cache_name, PARTITIONS)
    owners = [(await cluster.owner(slot)) is lost for slot in divided.slots]
    own = [path for path in PATHS if owners[divided.of(path.rpartition("/")[2])]]
    others = [path for path in PATHS if path not in own]
    await warm(side.service.endpoint, PATHS)
    before, _ = await _reads(side.service, others, own, pace, directory)

    async def pause() -> None:
        await asyncio.sleep(pace.opening_s + _PAUSE_AT * pace.seconds)
        lost.pause()

    try:
        (during, slowest_ms), _ = await asyncio.gather(_reads(side.service, others, own, pace, directory), pause())
        hits = await all_hits(side.service, random.sample(others, _SAMPLE))
    finally:
        lost.resume()
    await cluster.until(cluster.is_whole)
    return Outage(before, during, hits, slowest_ms)


async def _reads(
    service: Service, others: Sequence[str], own: Sequence[str], pace: h2load.Load, directory: Path
) -> tuple[Latency, float]:
    """Read products of living masters and of the other one at once; return the latency of the former, the latter's slowest."""
    calls = []
    for name, paths, share in (("others", others, 1.0), ("own", own, len(own) / len(others))):
        place = directory / name
        place.mkdir(exist_ok=True)
        shuffled = random.sample(paths, len(paths))
        calls.append(h2load.run(service.url, shuffled, h2load.Load(pace.rate * share, pace.seconds), place))
    living, lost = await asyncio.gather(*calls)
    for found in (living, lost):
        if not found.verified:
            raise RuntimeError(f"not every read was answered: {dict(found.statuses)}")
    return latency(living.latencies_s), latency(lost.latencies_s).max_ms


def report(found: Sequence[Side], outages: Sequence[Outage]) -> None:
    """Print the tables and the targets."""
    print("| service | hits/s | of the first | service, µs for a hit | Redis, µs |\n|---|---:|---:|---:|---:|")
    for side in found:
        ratios = [own / first for own, first in zip(side.rates, found[0].rates, strict=True)]
        spent = " | ".join(f"{statistics.median(figures):.1f}" for figures in (side.service_us, side.redis_us))
        print(f"| {side.label} | {statistics.median(side.rates):,.0f} | {_spread(ratios)} | {spent} |")
    shares = [own / first for own, first in zip(found[2].rates, found[0].rates, strict=True)]
    print("\n| products of living masters | p50 ms | p99 ms | max ms |\n|---|---:|---:|---:|")
    for name in ("before", "during"):
        each = [getattr(one, name) for one in outages]
        figures = (statistics.median(getattr(one, figure) for one in each) for figure in ("p50_ms", "p99_ms", "max_ms"))
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")
    ratios = [one.during.p99_ms / one.before.p99_ms for one in outages]
    print(f"\nSlowest read of the master that hangs: {max(one.slowest_lost_ms for one in outages):,.0f} ms.")
    _judge(f"3 masters over one Redis >= {LEAST_SHARE:.2f}", _spread(shares), statistics.median(shares) >= LEAST_SHARE)
    _judge(f"p99 of the others in an outage <= {MOST_RATIO:g}x", _spread(ratios), statistics.median(ratios) <= MOST_RATIO)
    _judge("the others stay hits", f"{sum(one.hits for one in outages)} of {len(outages)}", all(one.hits for one in outages))


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _judge(claim: str, measured: str, passed: bool) -> None:  # noqa: FBT001 - the last word of a line
    print(f"{'ok  ' if passed else 'MISS'} {claim}: {measured}")


async def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.partitions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=600.0, help="reads/s of products of the masters that live")
    arguments = parser.parse_args()
    async with servers() as started:
        await started.fill(CATALOGUE)
        nodes = started.directory / "cluster"
        nodes.mkdir()
        async with start_redis_cluster(nodes) as cluster, sides(started, cluster) as found:
            requests = load.write_requests(started.directory / "requests", workloads.reads(PATHS, _REQUESTS, 1))
            await alternate(found, requests, arguments.rounds, arguments.seconds)
            found[2].signal(signal.SIGCONT)
            pace = h2load.Load(arguments.rate, arguments.seconds)
            outages = [
                await outage(found[2], cluster, cluster.servers[number % 3], pace, started.directory)
                for number in range(arguments.rounds)
            ]
    report(found, outages)
    return 0


if __name__ == "__main__":
    sys.exit(run(main()))

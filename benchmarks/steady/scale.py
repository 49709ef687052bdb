"""``python -m benchmarks.steady.scale``: how the cost of a hit grows with workers, instances, products and payloads.

Each line changes one thing of the first one: one worker of one instance, 1,000 products, payloads of a usual size. All slots
are filled before the load, ``wrk`` with 32 connections in all, uniformly over the products that it reads: at most 100,000,
because its file of requests has to fit. Processor time is that of all processes of the service, and of Redis, for each hit.
Payloads get their size from the product's name; the constraint on its length and its index are taken from the private
database for that. The last table is the resident memory of a service before and after many connections that rest after one
read each.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random

import psutil
import psycopg
import redis.asyncio

from benchmarks import results
from benchmarks.contest import load, workloads
from benchmarks.results import Cell, Result
from benchmarks.steady.soak import fill
from benchmarks.steady.testbed import Servers, Service, larder, product_id, servers, warm
from tests.harness.loop import run
from tests.harness.proxy import HOST

READ_AT_MOST = 100_000
IDLE = 10_000
MEMORY = "2gb"
"""Enough for all slots of the large catalogue, so that Redis evicts none."""
_REQUESTS = 100_000
_BYTES = 500_000
"""Payload of one request of the warm-up, about."""
_AT_ONCE = 8
_PASSES = 10
_LONG_NAMES = (
    "ALTER TABLE products DROP CONSTRAINT ck_products_name_length",
    "DROP INDEX ix_products_name",
    "ALTER TABLE products DISABLE TRIGGER zz_larder_change",
    "UPDATE products SET name = rpad(name, {length}, 'x')",
    "ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_change",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured. ``name_bytes`` is the length of the products' names; 0 leaves them as they are."""

    label: str
    products: int = 1_000
    workers: int = 1
    instances: int = 1
    name_bytes: int = 0


def shapes(products: int) -> Sequence[Shape]:
    """Return what is measured; ``products`` is the size of the large catalogue."""
    payloads = (("5 kB", 4_700), ("25 kB", 24_700), ("100 kB", 99_700))
    return (
        Shape("1 worker, 1,000 products"),
        Shape("2 workers", workers=2),
        Shape("4 instances", instances=4),
        Shape(f"{products:,} products", products=products),
        *(Shape(f"payloads of {size}", name_bytes=length) for size, length in payloads),
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """What one shape cost."""

    shape: Shape
    body_bytes: int
    per_s: float
    p99_ms: float
    service_us: float
    redis_us: float
    resident_mb: float
    slot_bytes: float

    def row(self) -> dict[str, Cell]:
        """The table's row."""
        return {
            "shape": self.shape.label,
            "body_bytes": self.body_bytes,
            "hits/s": round(self.per_s),
            "p99_ms": round(self.p99_ms, 2),
            "service_us_per_hit": round(self.service_us, 1),
            "redis_us_per_hit": round(self.redis_us, 1),
            "service_resident_mb": round(self.resident_mb, 1),
            "redis_bytes_per_slot": round(self.slot_bytes),
        }


async def measure_shape(shape: Shape, seconds: int) -> Figures:
    """Measure one shape. Raises ``RuntimeError`` when an answer was no hit."""
    async with servers(redis_options={"maxmemory": MEMORY}) as started, AsyncExitStack() as opened:
        await fill(started, shape.products)
        if shape.name_bytes:
            await lengthen(started, shape.name_bytes)
        settings = {"LARDER_WORKERS": str(shape.workers)}
        services = [await opened.enter_async_context(larder(started, settings)) for _ in range(shape.instances)]
        path = f"/products/{product_id(0)}"
        for service in services:
            await warm(service.endpoint, [path])
        async with redis.asyncio.Redis.from_url(started.redis.url) as client:
            empty = int((await client.info("memory"))["used_memory"])
            await _fill_slots(services[0], client, shape)
            full = int((await client.info("memory"))["used_memory"])
        body = (await services[0].endpoint.request("GET", path)).body
        paths = [f"/products/{product_id(number)}" for number in range(min(shape.products, READ_AT_MOST))]
        requests = load.write_requests(started.directory / "requests", workloads.reads(paths, _REQUESTS, 1))
        processes = [process for service in services for process in _family(service.pid)]
        store = [psutil.Process(await _pid(started))]
        before = _processor_s(processes), _processor_s(store)
        found = await asyncio.gather(
            *(
                load.run(
                    service.url,
                    requests,
                    first=number * 1_000,
                    seconds=seconds,
                    connections=load.CONNECTIONS // len(services),
                )
                for number, service in enumerate(services)
            )
        )
        after = _processor_s(processes), _processor_s(store)
        hits = sum(one.answers for one in found)
        if any(one.wrong for one in found) or not hits:
            raise RuntimeError(f"{shape.label}: {[one.wrong for one in found]} wrong answers of {hits}")
        return Figures(
            shape,
            len(body),
            sum(one.per_second for one in found),
            max(one.p99_ms for one in found),
            1e6 * (after[0] - before[0]) / hits,
            1e6 * (after[1] - before[1]) / hits,
            sum(process.memory_info().rss for process in processes) / 1e6,
            (full - empty) / shape.products,
        )


async def measure_idle(connections: int) -> dict[str, Cell]:
    """Return resident memory before and after connections that rest."""
    async with servers() as started, larder(started) as service:
        await fill(started, 1_000)
        await warm(service.endpoint, [f"/products/{product_id(number)}" for number in range(100)])
        service.endpoint.close()
        before = psutil.Process(service.pid).memory_info().rss
        writers = []
        try:
            for number in range(connections):
                reader, writer = await asyncio.open_connection(HOST, service.endpoint.port)
                writers.append(writer)
                writer.write(f"GET /products/{product_id(number % 100)} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
                if not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200"):
                    raise RuntimeError("a connection was refused")
            after = psutil.Process(service.pid).memory_info().rss
        finally:
            for writer in writers:
                writer.close()
    return {
        "idle connections": connections,
        "before_mb": round(before / 1e6, 1),
        "after_mb": round(after / 1e6, 1),
        "kb_for_each": round((after - before) / connections / 1e3, 2),
    }


async def lengthen(started: Servers, length: int) -> None:
    """Give every product a name of so many characters."""
    async with await psycopg.AsyncConnection.connect(started.database_url, autocommit=True) as connection:
        for statement in _LONG_NAMES:
            await connection.execute(statement.replace("{length}", str(length)).encode())


async def _fill_slots(service: Service, client: "redis.asyncio.Redis", shape: Shape) -> None:
    """Read every product until each slot is filled. Raises ``RuntimeError`` if one stays empty, or for a wrong answer."""
    size = max(1, min(100, _BYTES // (shape.name_bytes or 1)))

    async def read(firsts: Iterator[int]) -> None:
        for first in firsts:
            ids = "&".join(f"id={product_id(number)}" for number in range(first, min(first + size, shape.products)))
            answer = await service.endpoint.request("GET", f"/products?{ids}")
            if answer.status != 200:
                raise RuntimeError(f"not read: {answer.status} {answer.body[:200]!r}")

    for _ in range(_PASSES):
        firsts = iter(range(0, shape.products, size))
        await asyncio.gather(*(read(firsts) for _ in range(_AT_ONCE)))
        if await client.dbsize() >= shape.products:
            return
    raise RuntimeError(f"{shape.label}: not every slot is filled")


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _processor_s(processes: Sequence[psutil.Process]) -> float:
    return float(sum(times.user + times.system for times in (process.cpu_times() for process in processes)))


async def _pid(started: Servers) -> int:
    async with redis.asyncio.Redis.from_url(started.redis.url) as client:
        return int((await client.info("server"))["process_id"])


async def measure(seconds: int, products: int, idle: int, only: Sequence[str], chance: Random) -> Result:
    """Measure all shapes in a random order, then the idle connections."""
    chosen = [shape for shape in shapes(products) if not only or any(word in shape.label for word in only)]
    found: dict[Shape, Figures] = {}
    for shape in chance.sample(chosen, len(chosen)):
        found[shape] = await measure_shape(shape, seconds)
        print("  ".join(f"{name}={cell}" for name, cell in found[shape].row().items()), flush=True)
    notes = [f"{seconds} s of load each, in a random order. Resident memory is that of all processes of the service."]
    if idle:
        notes.append(", ".join(f"{name} {cell}" for name, cell in (await measure_idle(idle)).items()) + ".")
    return Result("scale", "Cost of a hit by size", [found[shape].row() for shape in chosen], (), notes)


def main() -> int:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.scale")
    parser.add_argument("--seconds", type=int, default=8, help="of load for each shape (default: %(default)s)")
    parser.add_argument("--products", type=int, default=1_000_000, help="of the large catalogue (default: %(default)s)")
    parser.add_argument("--idle", type=int, default=IDLE, help="connections that rest; 0 for none (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=(), metavar="WORDS", help="shapes whose labels contain these")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    result = run(measure(given.seconds, given.products, given.idle, given.only, Random(given.seed)))
    results.write(result)
    for note in result.notes:
        print(note)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks.steady.near``: the processor time of a hit with copies of slots in the process, and without.

Two applications in this process answer the same requests through the server's protocol class, whose transports send nothing, so
the sockets of clients cost nothing here. Redis is real, and every batch has the same number of reads. The two take turns, in
random order; the table has the median of the ratios of all pairs, and its 95 % interval.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import redis.asyncio
import uvicorn
from fastapi import FastAPI
from typing_extensions import override
from uvicorn.server import ServerState

from app.api.context import STATE, Larder
from app.cache.write_through import Status
from app.server.known_heads import KnownHeads
from app.settings import Settings
from benchmarks.steady.components import application
from benchmarks.steady.scale import lengthen
from benchmarks.steady.soak import fill
from benchmarks.steady.telemetry import interval
from benchmarks.steady.testbed import product_id, servers
from tests.harness.loop import run
from tests.harness.servers import know_history

PRODUCTS = 1_000
_READS = 1_280
"""Reads behind each figure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Microseconds of the processor for a hit, and bytes that Redis sent for it."""

    service_us: float
    redis_us: float
    redis_bytes: float

    @property
    def together_us(self) -> float:
        """Microseconds of service and Redis together."""
        return self.service_us + self.redis_us


class Client(asyncio.Transport):
    """A connection of the protocol class that sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: asyncio.Future[bytes] | None = None

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 80) if name in ("peername", "sockname") else default

    @override
    def write(self, data: Any) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(bytes(data))

    @override
    def is_closing(self) -> bool:
        return False

    @override
    def close(self) -> None:
        pass

    @override
    def pause_reading(self) -> None:
        pass

    @override
    def resume_reading(self) -> None:
        pass


class Side:
    """One of the two applications, with as many connections as a batch has reads."""

    def __init__(self, app: FastAPI, batch: int) -> None:
        self.state: Larder = app.state.larder
        config = uvicorn.Config(app, interface="asgi3", http=KnownHeads, ws="none", log_config=None, access_log=False)
        config.load()
        self._connections = [(Client(), KnownHeads(config, ServerState(), {STATE: self.state})) for _ in range(batch)]
        for client, protocol in self._connections:
            protocol.connection_made(client)

    async def warm(self) -> None:
        """Read every product until it is a hit."""
        for number in range(PRODUCTS):
            while (await self.state.products.get(product_id(number))).status is not Status.HIT:
                pass

    async def answer(self, requests: Sequence[bytes]) -> None:
        """Answer a batch. Raises ``RuntimeError`` if its last answer is no hit."""
        client = self._connections[-1][0]
        client.answer = asyncio.get_running_loop().create_future()
        for (_, protocol), request in zip(self._connections, requests, strict=True):
            protocol.data_received(request)
        if b"larder; hit" not in await client.answer:
            raise RuntimeError("not a hit")

    async def measure(self, client: "redis.asyncio.Redis", chance: random.Random) -> Figure:
        """Answer ``_READS`` reads of random products."""
        size = len(self._connections)
        rounds = _READS // size
        batches = [[_request(chance) for _ in range(size)] for _ in range(rounds)]
        before, began_s = await client.info(), time.process_time()
        for batch in batches:
            await self.answer(batch)
        ended_s, after = time.process_time(), await client.info()
        redis_s, sent = (sum(after[name] - before[name] for name in names) for names in _OF_REDIS)
        reads = rounds * size
        return Figure(1e6 * (ended_s - began_s) / reads, 1e6 * redis_s / reads, sent / reads)


_OF_REDIS = (("used_cpu_user", "used_cpu_sys"), ("total_net_output_bytes",))


def _request(chance: random.Random) -> bytes:
    return f"GET /products/{product_id(chance.randrange(PRODUCTS))} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


async def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.near")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=24, help="reads in a batch")
    parser.add_argument("--name-bytes", type=int, default=5_000, help="length of a product's name; 0 leaves it as it is")
    parser.add_argument("--near-bytes", type=int, default=1 << 28, help="less than the catalogue shows the price")
    arguments = parser.parse_args()
    chance = random.Random(1)
    async with servers() as started, AsyncExitStack() as opened:
        await fill(started, PRODUCTS)
        if arguments.name_bytes:
            await lengthen(started, arguments.name_bytes)
        await know_history(started.database_url, Settings.from_env({}).cache_namespace)
        sides = []
        for near_bytes in (0, arguments.near_bytes):
            app = await opened.enter_async_context(application(started, {"LARDER_NEAR_BYTES": str(near_bytes)}))
            sides.append(Side(app, arguments.batch))
            await sides[-1].warm()
        found: list[tuple[Figure, Figure]] = []
        async with redis.asyncio.Redis.from_url(started.redis.url) as client:
            for _ in range(arguments.pairs + 1):
                pair = {number: await sides[number].measure(client, chance) for number in chance.sample((0, 1), 2)}
                found.append((pair[0], pair[1]))
    report(found[1:], chance)
    return 0


def report(found: Sequence[tuple[Figure, Figure]], chance: random.Random) -> None:
    """Print a row for each figure."""
    print("| of a hit | without copies | with | ratio |\n|---|---:|---:|---:|")
    for name in ("service_us", "redis_us", "together_us", "redis_bytes"):
        without, copies = ([getattr(pair[side], name) for pair in found] for side in (0, 1))
        ratios = [ours / theirs for theirs, ours in zip(without, copies, strict=True)]
        least, most = interval(ratios, chance)
        medians = f"{statistics.median(without):,.1f} | {statistics.median(copies):,.1f}"
        print(f"| {name} | {medians} | {statistics.median(ratios):.3f} ({least:.3f} to {most:.3f}) |")


if __name__ == "__main__":
    sys.exit(run(main()))

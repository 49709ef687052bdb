"""``python -m benchmarks.steady.accepted``: what a write costs that is accepted first and decided later, beside a direct one.

One process of the service, and ``wrk`` beside it. Each write adds to the stock of one of 2,000 products, by chance, under an
idempotency key of its own. A round has three parts: direct writes, answered with 200; writes that are accepted while nobody
applies them, answered with 202; and the decisions on those. Counted is the processor time of the service, PostgreSQL and Redis.
Which of the first two comes first alternates. Needs ``wrk``.
"""

import argparse
import asyncio
import os
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import NamedTemporaryFile

import psutil
import psycopg

from benchmarks.steady.testbed import Servers, Service, larder, product_id, servers, warm
from benchmarks.strategies.measure import cpu_s, processes

PRODUCTS = 2_000
_CONNECTIONS = 32
_REQUESTS = re.compile(r"(\d+) requests in ([\d.]+)(m?s)")
_NOBODY_APPLIES = "SELECT pg_advisory_lock(hashtextextended('larder accepted writes', 0))"
_WAITING = "SELECT count(*) FROM accepted_writes"
_POLL_S = 0.05
_LUA = """
local number = 0
math.randomseed(%(seed)d)
request = function()
  number = number + 1
  local headers = {["Content-Type"] = "application/json", ["Idempotency-Key"] = "%(prefix)s-" .. number}
  if %(later)s then headers["Prefer"] = "respond-async" end
  local path = string.format("/products/p-%%07d/stock/adjustments", math.random(0, %(last)d))
  return wrk.format("POST", path, headers, '{"delta": 1, "reason": "receipt"}')
end
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One part of one round."""

    per_s: float
    cpu_us: float
    """Processor time for each write."""


async def load(service: Service, prefix: str, seconds: int, *, later: bool) -> tuple[int, float]:
    """Run wrk; requests and seconds. Raises ``RuntimeError`` when an answer was none or no success."""
    values = {"seed": len(prefix), "prefix": prefix, "later": str(later).lower(), "last": PRODUCTS - 1}
    with NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA % values)
        script.flush()
        command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", "-s", script.name, service.url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said = (await process.communicate())[0].decode()
    found = _REQUESTS.search(said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk: {said}")
    return int(found[1]), float(found[2]) / (1_000 if found[3] == "ms" else 1)


class Round:
    """One round, on servers of its own."""

    def __init__(self, started: Servers, service: Service, hand: psycopg.AsyncConnection, seconds: int) -> None:
        self._service = service
        self._hand = hand
        self._seconds = seconds
        self._used: Sequence[psutil.Process] = processes(started, service)

    async def direct(self) -> Figure:
        """Measure writes that are answered with 200."""
        before_s = cpu_s(self._used)
        requests, took_s = await load(self._service, "direct", self._seconds, later=False)
        return Figure(requests / took_s, 1e6 * (cpu_s(self._used) - before_s) / requests)

    async def accepted(self) -> tuple[Figure, Figure]:
        """Measure writes that are answered with 202 while nobody applies them, and their decisions."""
        await self._hand.execute(_NOBODY_APPLIES)
        before_s = cpu_s(self._used)
        _, took_s = await load(self._service, "later", self._seconds, later=True)
        accepted_s = cpu_s(self._used) - before_s
        rows = await self._waiting()
        loop = asyncio.get_running_loop()
        before_s, began = cpu_s(self._used), loop.time()
        await self._hand.execute("SELECT pg_advisory_unlock_all()")
        while await self._waiting():  # noqa: ASYNC110 - another process sets no events
            await asyncio.sleep(_POLL_S)
        decided_s, lasted_s = cpu_s(self._used) - before_s, loop.time() - began
        return Figure(rows / took_s, 1e6 * accepted_s / rows), Figure(rows / lasted_s, 1e6 * decided_s / rows)

    async def _waiting(self) -> int:
        [number] = await (await self._hand.execute(_WAITING)).fetchone() or (0,)
        return int(number)


async def one_round(seconds: int, *, direct_first: bool) -> tuple[Figure, Figure, Figure]:
    """Measure direct writes, acceptances and decisions once."""
    async with servers() as started:
        await started.fill(PRODUCTS)
        connect = psycopg.AsyncConnection.connect(started.database_url, autocommit=True)
        async with larder(started, {"LARDER_ACCEPT_WRITES": "1"}) as service, await connect as hand:
            await warm(service.endpoint, [f"/products/{product_id(number)}" for number in range(PRODUCTS)])
            await load(service, "warm-up", 1, later=False)
            measured = Round(started, service, hand, seconds)
            if direct_first:
                return await measured.direct(), *await measured.accepted()
            accepted = await measured.accepted()
            return await measured.direct(), *accepted


def row(name: str, rates: Sequence[float], costs: Sequence[float]) -> str:
    """One line of the table: medians, least and most."""

    def spread(values: Sequence[float]) -> str:
        return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"

    return f"| {name} | {spread(rates)} | {spread(costs)} |"


async def main() -> int:
    """Measure all rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady.accepted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load in each part")
    arguments = parser.parse_args()
    found: list[tuple[Figure, Figure, Figure]] = []
    for number in range(arguments.rounds):
        found.append(await one_round(arguments.seconds, direct_first=number % 2 == 0))
        print(f"round {number + 1}: {found[-1]}", file=sys.stderr, flush=True)
    print("| | writes/s | processor time, µs/write |\n|---|---:|---:|")
    for name, figures in zip(("direct, 200", "accepted, 202", "decided later"), zip(*found, strict=True), strict=True):
        print(row(name, [figure.per_s for figure in figures], [figure.cpu_us for figure in figures]))
    ratios = [(accepted.cpu_us + decided.cpu_us) / direct.cpu_us for direct, accepted, decided in found]
    firsts = [accepted.cpu_us / direct.cpu_us for direct, accepted, _ in found]
    print(f"\naccepted: {statistics.median(firsts):.2f} ({min(firsts):.2f} to {max(firsts):.2f}) times a direct write")
    print(f"accepted and decided: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times")
    print(f"load average at the end {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

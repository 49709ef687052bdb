"""``python -m benchmarks.proofs.overload --seconds 60``: what is served at twice the rate that a service can carry.

The rate that a service can carry is measured first: requests are sent at a rate that rises by a quarter every few seconds,
until fewer than 97 % are served. The most that were served in a second, at any rate, is what the service carries. Then requests
are sent at twice that rate, whether or not earlier ones are answered: reads of cached products, counts of stock, lists and
large batches.

Larder must serve the reads in time, do every write that it acknowledged, refuse the rest with 503 and Retry-After, and serve
everything again within two seconds. The textbook beside it gets the reads and the counts alone, since it has neither lists nor
batches.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from benchmarks.peers.environment import command as peer_command
from benchmarks.peers.environment import set_up
from benchmarks.steady.percentiles import percentile
from benchmarks.steady.testbed import Servers, Service, free_port, larder, process, product_id, servers
from tests.harness import loop
from tests.harness.client import NoAnswerError

PRODUCTS = 5_000
HOT = 500
BATCH = 400
FIRST_RATE = 200.0
RISE = 1.25
CARRIED = 0.97
MOST_UNDER_WAY = 1_500
"""Requests that may wait for an answer at once; one that would be the next is not sent, and counted."""
HIT_P99_S = 0.050
RETURN_S = 2.0
MIX = {"hit": 70, "count": 20, "list": 8, "batch": 2}
PEER_MIX = {"hit": 78, "count": 22}


@dataclass
class ClientRecord:
    """The answers and latencies that the clients got."""

    answers: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counted: Counter[str] = field(default_factory=Counter)
    """Acknowledged counts by product."""
    doubtful: Counter[str] = field(default_factory=Counter)
    """Counts without a certain outcome, by product."""
    without_pause: int = 0
    """Refusals without Retry-After."""
    not_sent: int = 0
    refused_at: list[float] = field(default_factory=list)

    @property
    def served(self) -> int:
        """Number of requests that were served."""
        return sum(counts[200] for counts in self.answers.values())


class Clients:
    """The clients of one service."""

    def __init__(self, service: Service, mix: Mapping[str, int], seed: int) -> None:
        self._service = service
        self._kinds = random.Random(seed).choices(list(mix), list(mix.values()), k=100_000)
        self._random = random.Random(seed + 1)
        self._number = 0
        self._under_way: set[asyncio.Task[None]] = set()

    async def capacity(self, step_s: float, record: ClientRecord) -> float:
        """Send at rising rates until too few requests are served; return the most that were served per second."""
        rate, best = FIRST_RATE, 0.0
        while True:
            before, began = record.served, time.monotonic()
            await self.open(step_s, rate, record)
            served = record.served - before
            best = max(best, served / (time.monotonic() - began))
            if served < CARRIED * rate * step_s:
                return best
            rate *= RISE

    async def open(self, seconds: float, rate: float, record: ClientRecord) -> None:
        """Send at a rate, whatever becomes of the requests before."""
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while sent < passed * rate:
                sent += 1
                if len(self._under_way) >= MOST_UNDER_WAY:
                    record.not_sent += 1
                    continue
                task = asyncio.create_task(self._send(record))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(0.001)
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _send(self, record: ClientRecord) -> None:
        self._number += 1
        kind = self._kinds[self._number % len(self._kinds)]
        product = product_id(self._random.randrange(HOT))
        method, path, body = self._request(kind, product)
        sent = time.monotonic()
        try:
            answer = await self._service.endpoint.request(method, path, body=body, timeout_s=30)
        except NoAnswerError as error:
            record.answers[kind][0] += 1
            if kind == "count" and error.sent:
                record.doubtful[product] += 1
            return
        record.answers[kind][answer.status] += 1
        if answer.status == 200:
            record.seconds[kind].append(time.monotonic() - sent)
            if kind == "count":
                record.counted[product] += 1
            return
        record.refused_at.append(time.monotonic())
        record.without_pause += answer.status == 503 and not answer.header(b"retry-after")
        if kind == "count" and b"outcome-unknown" in answer.body:
            record.doubtful[product] += 1

    def _request(self, kind: str, product: str) -> tuple[str, str, bytes]:
        if kind == "hit":
            return "GET", f"/products/{product}", b""
        if kind == "count":
            return "PUT", f"/products/{product}/stock", b'{"stock": %d}' % self._random.randrange(1_000)
        if kind == "list":
            return "GET", "/products?limit=100", b""
        first = self._random.randrange(HOT, PRODUCTS - BATCH)
        items = [
            {"id": product_id(number), "name": f"Product number {number}", "price_cents": self._random.randrange(9_000)}
            for number in range(first, first + BATCH)
        ]
        return "POST", "/products/batch", json.dumps({"items": items}).encode()


async def measure(
    name: str, service: Service, mix: Mapping[str, int], arguments: argparse.Namespace
) -> tuple[float, ClientRecord]:
    """Measure the rate, send twice as much, and then half; print the figures. Return the time to recover, and the record."""
    clients = Clients(service, mix, arguments.seed)
    warm = ClientRecord()
    for number in range(HOT):
        await service.endpoint.request("GET", f"/products/{product_id(number)}")
    rate = await clients.capacity(arguments.step_s, warm)
    during, after = ClientRecord(), ClientRecord()
    await clients.open(arguments.seconds, 2 * rate, during)
    ended = time.monotonic()
    await clients.open(5.0, rate / 2, after)
    recovered = max(after.refused_at, default=ended) - ended
    for record in (warm, after):
        during.counted += record.counted
        during.doubtful += record.doubtful
    print(f"{name}: carries {rate:,.0f} requests/s; at twice that for {arguments.seconds:g} s:")
    for kind in mix:
        counts, times = during.answers[kind], sorted(during.seconds[kind])
        slowest = f"p50 {percentile(times, 50) * 1e3:,.0f} ms, p99 {percentile(times, 99) * 1e3:,.0f} ms" if times else "none"
        told = ", ".join(f"{status or 'no answer'}: {count:,}" for status, count in sorted(counts.items()))
        print(f"  {kind:6} {told}; served: {slowest}")
    rate_served = during.served / arguments.seconds
    print(f"  not sent because {MOST_UNDER_WAY:,} were under way: {during.not_sent:,}; served {rate_served:,.0f}/s")
    print(f"  at half the rate afterwards: last refusal after {recovered:.2f} s")
    return recovered, during


async def wrong_counts(started: Servers, record: ClientRecord) -> list[str]:
    """Return the products whose version does not fit the acknowledged counts: every count raises it by one."""
    async with await psycopg.AsyncConnection.connect(started.database_url) as connection:
        rows = await (await connection.execute("SELECT id, version FROM products")).fetchall()
    versions = {str(key): int(version) for key, version in rows}
    return [
        f"{key}: version {versions[key]}, {count} counts acknowledged, {record.doubtful[key]} doubtful"
        for key, count in record.counted.items()
        if not 1 + count <= versions[key] <= 1 + count + record.doubtful[key]
    ]


async def run(arguments: argparse.Namespace) -> int:
    """Measure both, and return the exit status."""
    async with servers() as started:
        await started.fill(PRODUCTS)
        async with larder(started) as service:
            recovered, record = await measure("Larder", service, MIX, arguments)
        wrong = await wrong_counts(started, record)
    await asyncio.to_thread(set_up)
    async with servers() as started:
        await started.fill(PRODUCTS)
        port = free_port()
        peer = {"PEER_DATABASE_URL": started.database_url, "PEER_REDIS_URL": started.redis.url}
        probe = f"/products/{product_id(0)}"
        log = started.directory / "textbook.log"
        async with process(peer_command("textbook_threads", port), peer, port, log, ready=probe) as service:
            with suppress(NoAnswerError):
                await measure("textbook", service, PEER_MIX, arguments)
    return verdict(recovered, record, wrong)


def verdict(recovered: float, record: ClientRecord, wrong: Sequence[str]) -> int:
    """Print each promise, and return 1 if one is broken."""
    hits = sorted(record.seconds["hit"])
    statuses = set().union(*record.answers.values())
    promises = {
        f"p99 of hits {percentile(hits, 99) * 1e3:.0f} ms (<= {HIT_P99_S * 1e3:.0f})": percentile(hits, 99) <= HIT_P99_S,
        f"answers {sorted(statuses)} (only 200 and 503)": statuses <= {200, 503},
        f"503 without Retry-After: {record.without_pause} (0)": not record.without_pause,
        f"products with a wrong version: {len(wrong)} (0)": not wrong,
        f"served again after {recovered:.2f} s (<= {RETURN_S})": recovered <= RETURN_S,
    }
    for text, kept in promises.items():
        print(f"{'kept' if kept else 'BROKEN'}: {text}")
    return int(not all(promises.values()))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long at twice the rate")
    parser.add_argument("--step-s", type=float, default=4.0, help="how long each rate is tried")
    parser.add_argument("--seed", type=int, default=1)
    return loop.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())

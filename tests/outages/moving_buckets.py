"""Two pairs that serve while buckets move between them, and clients that follow the buckets by 421 and a map."""

import asyncio
import json
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from app.buckets import bucket_of, moved_to, parse_ranges
from app.cache.slot import cache_name
from tests.cli.larder_process import LIMIT_S, Larder
from tests.harness.checker import Read, Write
from tests.harness.client import Answer, Endpoint
from tests.harness.servers import execute, know_history, new_name
from tests.outages.scenarios.report import Report

MOVING = range(500, 506)
"""The buckets that move."""
PARTS = {"a": "0-511", "b": "512-1023"}
_SETTINGS = {
    "LARDER_ACCEPT_WRITES": "1",
    "LARDER_AUDIT_INTERVAL_MS": "250",
    "LARDER_FENCE_TTL_MS": "1000",
    "LARDER_FENCE_TTL_MAX_MS": "1000",
    "LARDER_LAG_TARGET_MS": "10000",  # a busy machine refuses nothing
}
_PAUSE_S = 0.05
_HELD = "INSERT INTO pair_buckets (held) VALUES ('{}')"
_LIVES = "SELECT id, stock, version FROM products WHERE deleted_at IS NULL"
_RECEIPTS = "SELECT reference FROM stock_movements WHERE product_id = '{}' AND reason = 'receipt' ORDER BY version, line"


@dataclass
class Side:
    """One pair: its database and its instances."""

    name: str
    url: str
    endpoints: list[Endpoint] = field(default_factory=list)


class World:
    """Both pairs, the map of the router, and what the clients have seen."""

    def __init__(self, larder: Larder, sides: Mapping[str, Side], settings: Mapping[str, str]) -> None:
        self._larder = larder
        self._settings = settings
        self.sides = sides
        self.map = {bucket: name for name, part in PARTS.items() for bucket in parse_ranges(part)}
        self.products = [moved_to(bucket, f"moves-{bucket}-0000") for bucket in MOVING]
        self.products += [moved_to(bucket, f"stays-{bucket}-0000") for bucket in (3, 499, 512, 1000)]
        self.reads: list[Read] = []
        self.writes: list[Write] = []
        self.acknowledged: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.over = False

    async def fill(self) -> None:
        """Create the products."""
        for product_id in self.products:
            body = json.dumps({"name": "Mug", "price_cents": 1, "stock": 0}).encode()
            answer = await self._ask(product_id, "PUT", f"/products/{product_id}", body=body)
            assert answer.status == 201, answer.body
            self.writes.append(Write(product_id, 0, 0, 1, acknowledged=True))

    async def write(self, product_id: str) -> None:
        """Receive one unit after another, each until it is acknowledged. Every third one accepts a 202."""
        number = 0
        while not self.over:
            number += 1
            key = f"{product_id}.{number}"
            called = time.monotonic()
            version = await self._receive(product_id, key, later=number % 3 == 0)
            self.writes.append(Write(product_id, called, time.monotonic(), version, acknowledged=True))
            self.acknowledged[product_id] += 1
            await asyncio.sleep(_PAUSE_S)

    async def read(self, chance: random.Random) -> None:
        """Read products at both pairs, whatever the map says."""
        while not self.over:
            product_id = chance.choice(self.products)
            side = self.sides[chance.choice("ab")]
            called = time.monotonic()
            answer = await chance.choice(side.endpoints).request("GET", f"/products/{product_id}")
            if answer.status in (200, 404):
                version = json.loads(answer.body)["version"] if answer.status == 200 else None
                status = answer.header(b"cache-status").partition("; ")[2].partition(";")[0]
                self.reads.append(Read(product_id, called, time.monotonic(), version, status=status))
            elif answer.status != 421 or (not self._moves(product_id) and self.map[bucket_of(product_id)] == side.name):
                self._refused(product_id, answer)
            await asyncio.sleep(0.005)

    async def move(self, ranges: str, way: str, *, kill_at: str = "", kill_after_s: float | None = None) -> bool:
        """Run the command that moves buckets; kill it when it has told this, or then. Return whether it came to its end."""
        source, target = (self.sides[name] for name in way)
        settings = {**self._settings, "LARDER_DATABASE_URL": source.url}
        process = await self._larder.start("buckets", "move", ranges, "--to", target.url, **settings)
        said = ""
        assert process.stdout is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S if kill_after_s is None else kill_after_s):
                while line := (await process.stdout.readline()).decode():
                    said += line
                    if kill_at and kill_at in line:
                        break
        if process.returncode is None and (kill_at in said if kill_at else kill_after_s is not None):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        await process.wait()
        if process.returncode == 0:
            self.map |= dict.fromkeys(parse_ranges(ranges), target.name)
            return True
        # It is killed, or the server has not noticed yet that the one before was.
        assert process.returncode == -signal.SIGKILL or "another move" in said, said
        return False

    async def judge(self, report: Report) -> None:
        """Add what the clients have seen, and what both databases have, to the report."""
        report.none("answers that must not be", self.wrong)
        for problem, count in sorted(self.refusals.items()):
            report.tell(f"refusals, {problem}", count)
        verdict = report.no_stale_reads("of all products", self.reads, self.writes)
        report.tell("hits among them", verdict.hits)
        report.tell("longest time without a read of a moving product, s", f"{max(self._gaps()):.1f}")
        places: defaultdict[str, list[tuple[str, int, int]]] = defaultdict(list)
        for name, side in self.sides.items():
            for product_id, stock, version in await execute(side.url, _LIVES):
                places[product_id].append((name, stock, version))
        report.none("products with two places or none", [one for one in self.products if len(places[one]) != 1])
        report.none("products at another place than the map's", [
            one for one in self.products if [name for name, *_ in places[one]] != [self.map[bucket_of(one)]]
        ])  # fmt: skip
        report.tell("acknowledged writes", self.acknowledged.total())
        for product_id in self.products:
            [(name, stock, _)] = places[product_id]
            wanted = [f"{product_id}.{number + 1}" for number in range(self.acknowledged[product_id])]
            found = [row[0] for row in await execute(self.sides[name].url, _RECEIPTS.format(product_id))]
            report.demand(f"units of {product_id}", stock, str(len(wanted)), kept=(stock, found) == (len(wanted), wanted))

    def _gaps(self) -> Iterator[float]:
        for product_id in self.products:
            if self._moves(product_id):
                times = sorted(read.returned for read in self.reads if read.key == product_id)
                yield from (after - before for before, after in pairwise(times))

    async def _receive(self, product_id: str, key: str, *, later: bool) -> int:
        body = json.dumps({"delta": 1, "reason": "receipt", "reference": key}).encode()
        headers = f"Idempotency-Key: {key}\r\n" + ("Prefer: respond-async\r\n" if later else "")
        while True:
            answer = await self._ask(
                product_id, "POST", f"/products/{product_id}/stock/adjustments", headers=headers, body=body
            )
            if answer.status == 200:
                return int(json.loads(answer.body)["product"]["version"])
            if answer.status == 202:
                return await self._until_done(product_id, key)
            self._refused(product_id, answer)
            await asyncio.sleep(_PAUSE_S)

    async def _until_done(self, product_id: str, key: str) -> int:
        headers = f"Larder-Bucket: {bucket_of(product_id)}\r\n"
        while True:
            answer = await self._ask(product_id, "GET", f"/writes/{key}", headers=headers)
            if answer.status != 200:
                self._refused(product_id, answer)
            elif (found := json.loads(answer.body))["state"] == "done":
                assert found["answer"]["status"] == 200, found
                return int(found["answer"]["body"]["product"]["version"])
            elif found["state"] == "failed":
                self.wrong.append(f"{key} has failed: {found['reason']}")
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, product_id: str, method: str, path: str, *, headers: str = "", body: bytes = b"") -> Answer:
        side = self.sides[self.map[bucket_of(product_id)]]
        return await random.choice(side.endpoints).request(method, path, headers=headers, body=body)

    def _moves(self, product_id: str) -> bool:
        return bucket_of(product_id) in MOVING

    def _refused(self, product_id: str, answer: Answer) -> None:
        problem = json.loads(answer.body)["type"].rpartition("/")[2].rpartition("#")[2]
        self.refusals[problem] += 1
        if problem == "database-unavailable":
            return  # a busy machine has kept the process from reading the buckets for two seconds
        if not self._moves(product_id) or (answer.status, problem) not in ((503, "bucket-moving"), (421, "not-here")):
            self.wrong.append(f"{product_id}: {answer.status} {answer.body.decode()}")


@asynccontextmanager
async def open_world(directory: Path, urls: Mapping[str, str], redis_url: str, *, instances: int) -> AsyncIterator[World]:
    """Start both pairs on two migrated databases, with clients that have not begun yet."""
    larder, namespace = Larder(directory), f"moves-{new_name()}"
    settings = {"LARDER_REDIS_URL": redis_url, **_SETTINGS}
    async with AsyncExitStack() as opened:
        sides = {}
        for name, part in PARTS.items():
            side = sides[name] = Side(name, urls[name])
            await execute(side.url, _HELD.format(part))
            await know_history(side.url, cache_name(f"{namespace}-{name}"))
            own = {"LARDER_DATABASE_URL": side.url, "LARDER_CACHE_NAMESPACE": f"{namespace}-{name}", "LARDER_BUCKETS": part}
            starting = [opened.enter_async_context(larder.serving("serve", **settings, **own)) for _ in range(instances)]
            for serving in await asyncio.gather(*starting):
                side.endpoints.append(Endpoint(urlsplit(serving.url).port or 0))
                opened.callback(side.endpoints[-1].close)
                log = asyncio.create_task(_drop(serving.process.stdout))
                opened.push_async_callback(_end, log)
        yield World(larder, sides, settings)


async def _drop(log: asyncio.StreamReader | None) -> None:
    """Read a log away: a process whose pipe is full stands still."""
    while log is not None and await log.read(65_536):
        pass


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def under_load(world: World, *, readers: int) -> AsyncIterator[None]:
    """Let the clients write and read within the block; every write that was begun is acknowledged at its end."""
    await world.fill()
    async with asyncio.TaskGroup() as clients:
        for product_id in world.products:
            clients.create_task(world.write(product_id))
        for number in range(readers):
            clients.create_task(world.read(random.Random(number)))
        try:
            yield
        finally:
            world.over = True


def some_ranges(chance: random.Random, numbers: Sequence[int]) -> str:
    """Return some of these buckets."""
    return ",".join(str(number) for number in sorted(chance.sample(numbers, chance.randint(1, len(numbers)))))

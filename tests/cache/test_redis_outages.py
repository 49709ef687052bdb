"""Redis hangs, dies, comes back empty or from a snapshot, under reads and writes (G1, G3)."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from app.cache.errors import StoreUnavailable
from app.cache.write_through import Status
from app.private_servers import RedisServer
from app.products.commands import Create, set_stock
from tests.cache.rig import SHORT_FENCE, Process, draft, open_process, until
from tests.cache.taps import Tap, redis_proxy
from tests.harness.script import PATIENCE_S
from tests.limits import redis_options

DEADLINE_MS = 250
KEYS = [f"p{number}" for number in range(8)]


@pytest.fixture
async def served(private_redis: RedisServer, database_url: str, namespace: str) -> AsyncIterator[Process]:
    """A process with audits in its background, and products that it serves as hits."""
    async with open_process(
        private_redis.url, database_url, namespace, config=SHORT_FENCE, redis_timeout_ms=DEADLINE_MS, audited=True
    ) as process:
        for key in KEYS:
            await process.products.write(Create(draft(key)))
        await until(lambda: _hits(process))
        yield process


class Clients:
    """Readers and writers who stop at the first request that fails, or that reads what is older than acknowledged."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._acknowledged = dict.fromkeys(KEYS, 1)
        self.reads = 0
        self.writes = 0

    async def read(self, times: int) -> None:
        """Read every key so often."""
        for _ in range(times):
            for key in KEYS:
                newest = self._acknowledged[key]
                assert await self._process.version(key) >= newest
                self.reads += 1

    async def write(self, times: int) -> None:
        """Write every key so often, one key after the other, so that no write shares a transaction."""
        for number in range(times):
            written = await asyncio.gather(*(self._process.products.write(set_stock(key, number)) for key in KEYS))
            for key, [effect] in zip(KEYS, written, strict=True):
                self._acknowledged[key] = effect.row.version
            self.writes += len(KEYS)

    async def run(self) -> None:
        """Some of both at once; an exception of any reaches the test."""
        async with asyncio.TaskGroup() as clients:
            for _ in range(3):
                clients.create_task(self.read(10))
            clients.create_task(self.write(2))


@pytest.mark.guarantee("G3")
async def test_redis_hangs_and_goes_on(served: Process, private_redis: RedisServer) -> None:
    """Every request succeeds while Redis hangs, which costs each connection one deadline in all and not one per request."""
    clients = Clients(served)
    await clients.run()
    private_redis.pause()
    await clients.run()
    slow = served.store.calls.slow(DEADLINE_MS / 1000 * 0.9)
    assert slow["read"] == 1
    assert slow.total() <= 3
    reads_before = clients.reads
    await clients.run()  # the breaker is open: none of these pays anything
    assert clients.reads == reads_before + 240
    assert served.store.calls.slow(DEADLINE_MS / 1000 * 0.9) == slow

    private_redis.resume()  # what was sent meanwhile arrives now, late
    await clients.run()
    await until(lambda: _hits(served))
    await clients.run()


@pytest.mark.guarantee("G3", "R1")
async def test_redis_comes_back_from_a_snapshot(served: Process, private_redis: RedisServer) -> None:
    """Every request succeeds while Redis is dead; what a restart brings back is never believed, because its fence is old."""
    clients = Clients(served)
    client = redis.asyncio.Redis.from_url(private_redis.url)
    await client.save()
    await client.aclose()
    await clients.write(1)
    async with asyncio.TaskGroup() as running:
        running.create_task(clients.run())
        await private_redis.kill()
    await clients.run()
    assert (await served.cache.read(KEYS[0])).status is Status.BYPASS
    await private_redis.restart(keep_snapshot=True)
    await clients.run()
    await until(lambda: _hits(served))
    await clients.run()


@pytest.mark.guarantee("R5")
async def test_audits_go_on_after_an_outage(served: Process, private_redis: RedisServer) -> None:
    """The auditor survives Redis: it counts its failures and proves the cache again afterwards."""
    await private_redis.kill()
    await until(lambda: served.stats.audit_failures > 0)
    await private_redis.start()
    audits = served.stats.audits
    await until(lambda: served.stats.audits > audits)


@pytest.mark.guarantee("G6")
async def test_single_prober(unanswering: "Unanswering") -> None:
    """While Redis does not answer, one background task tries to connect, and all calls are refused at once."""
    link = redis_options(unanswering.url, timeout_ms=50, connect_timeout_ms=50, retry_ms=10).link()
    await link.start()
    try:
        while unanswering.accepted < 5:
            for _ in range(50):
                with pytest.raises(StoreUnavailable):
                    link.connection()
            await asyncio.sleep(0.005)
        assert unanswering.most_open == 1
    finally:
        await link.close()


@pytest.mark.guarantee("R1")
async def test_reply_too_late(private_redis: RedisServer, database_url: str, namespace: str) -> None:
    """A connection with an unanswered command is closed; its late answer reaches nobody, and its publish does no harm."""
    tap = Tap()
    async with (
        redis_proxy(private_redis.url, tap) as url,
        open_process(url, database_url, namespace, redis_timeout_ms=DEADLINE_MS) as process,
    ):
        await process.trust()
        await process.products.write(Create(draft("mug")))
        tap.proxy.hold()
        assert (await process.cache.read("mug")).status is Status.BYPASS
        await tap.proxy.heal()
        await until(lambda: process.redis.up)
        reads = await asyncio.gather(*(process.cache.read(key) for key in ("mug", "jug", "cup")))
        assert [read.state.key for read in reads] == ["mug", "jug", "cup"]
        assert (reads[0].state.version, reads[0].status) == (1, Status.HIT)


class Unanswering:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.url = ""
        self.accepted = 0
        self.most_open = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._open.add(writer)
        self.most_open = max(self.most_open, len(self._open))
        while await reader.read(1_000):
            continue
        self._open.discard(writer)
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def unanswering() -> AsyncIterator[Unanswering]:
    stand_in = Unanswering()
    server = await asyncio.start_server(stand_in.serve, "127.0.0.1", 0)
    stand_in.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    yield stand_in
    server.close()
    async with asyncio.timeout(PATIENCE_S):
        await server.wait_closed()
    await until(lambda: not stand_in._open)


async def _hits(process: Process) -> bool:
    reads = await process.cache.read_many(KEYS)
    return {read.status for read in reads} == {Status.HIT}

"""``larder serve --workers N``: several real processes on one address."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.cli.errors import CommandFailed
from app.cli.serve import settings_for
from tests.cli.larder_process import LIMIT_S, Larder, ServingLarder

TWO = ("serve", "--workers", "2")
_HITS = ("larder_cache_reads_total", ("hit",))
_RESTARTS = ("larder_worker_restarts_total", ())
_WORKERS = ("larder_workers", ())
_STORE_UP = ("larder_cache_store_up", ())

Samples = dict[tuple[str, tuple[str, ...]], float]


@asynccontextmanager
async def _connections(url: str, count: int) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients with one connection each, opened one after the other: workers get them in turn."""
    limits = httpx.Limits(max_connections=1, keepalive_expiry=None)
    async with AsyncExitStack() as opened:
        clients = [httpx.AsyncClient(base_url=url, limits=limits, timeout=LIMIT_S) for _ in range(count)]
        for client in clients:
            await opened.enter_async_context(client)
            (await client.get("/livez")).raise_for_status()
        yield clients


async def _scrape(client: httpx.AsyncClient) -> Samples:
    answer = (await client.get("/metrics")).raise_for_status()
    return {
        (sample.name, tuple(value for label, value in sample.labels.items() if label != "namespace")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def _fallen(before: Samples, now: Samples) -> dict[tuple[str, tuple[str, ...]], tuple[float, float]]:
    """The counts of ``before`` that are lower now."""
    counts = {key: value for key, value in before.items() if key[0].endswith(("_total", "_count", "_sum", "_bucket"))}
    assert counts
    return {key: (value, now.get(key, 0.0)) for key, value in counts.items() if now.get(key, 0.0) < value}


def _workers_of(serving: ServingLarder) -> list[psutil.Process]:
    return psutil.Process(serving.process.pid).children()


async def _until_replaced(url: str, seen: Samples) -> None:
    """Ask again and again, each time by a new connection, until a successor counts; no count ever falls."""
    async with asyncio.timeout(LIMIT_S):
        while seen[_RESTARTS] < 1 or seen[_WORKERS] < 2:
            try:
                async with _connections(url, 1) as [client]:
                    now = await _scrape(client)
            except httpx.TransportError:
                continue  # the connection was handed to the one that was just killed
            assert _fallen(seen, now) == {}
            seen = now
            await asyncio.sleep(0.01)


async def test_what_one_worker_wrote_all_read_and_all_count(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """Both serve; what was written through one is a hit, and new, through the other at once; whoever is asked shows the sum of
    both; a second Larder is refused the address; SIGTERM ends all of them.
    """
    async with larder.serving(*TWO, **own_servers) as serving:
        workers = _workers_of(serving)
        port = int(serving.url.rpartition(":")[2])
        async with _connections(serving.url, 4) as clients:
            assert [sum(c.laddr.port == port for c in worker.net_connections("tcp")) for worker in workers] == [2, 2]
            for number in range(12):
                body = {"name": f"Tray {number}", "price_cents": 1_500}
                (await clients[number % 4].put("/products/tray", json=body)).raise_for_status()
                for client in clients:
                    answer = await client.get("/products/tray")
                    assert answer.headers["Cache-Status"] == "larder; hit"
                    assert answer.json()["name"] == f"Tray {number}"
            async with asyncio.timeout(LIMIT_S):
                for client in clients:
                    while (sums := await _scrape(client))[_HITS] < 48:
                        await asyncio.sleep(0.02)
                    assert sums[_HITS] == 48
                    assert sums["larder_http_requests_total", ("GET", "/products/{product_id}", "200")] == 48
                    assert sums["larder_http_requests_total", ("PUT", "/products/{product_id}", "200")] == 11
                    assert sums["larder_http_requests_total", ("PUT", "/products/{product_id}", "201")] == 1
                    assert (sums[_WORKERS], sums[_RESTARTS], sums[_STORE_UP]) == (2, 0, 1)
        said = await larder.failure(*TWO, **own_servers, LARDER_PORT=str(port))
        assert said == f"127.0.0.1:{port} is taken by another program. Stop it, or set LARDER_PORT to another port."
        assert await serving.end(signal.SIGTERM) == 0
        assert [worker.pid for worker in workers if worker.is_running()] == []
    assert serving.said.count("Larder serves on") == 1


async def test_killed_worker_is_replaced_and_no_count_falls(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """After SIGKILL to a worker that has just shown its counts, no count is lower than it was shown, and another worker takes
    its place; after SIGKILL to the parent all workers end by themselves, and nothing of them is left.
    """
    async with larder.serving(*TWO, **own_servers) as serving:
        victim, other = _workers_of(serving)
        async with _connections(serving.url, 2) as clients:
            (await clients[0].put("/products/tray", json={"name": "Tray", "price_cents": 1_500})).raise_for_status()
            for client in clients:
                for _ in range(20):
                    (await client.get("/products/tray")).raise_for_status()
            shown = [await _scrape(client) for client in clients]
        assert _fallen(*shown) == {}
        victim.kill()
        await _until_replaced(serving.url, shown[1])
        workers = _workers_of(serving)
        assert other in workers
        assert victim not in workers
        directory = Path(other.cmdline()[-1])
        assert {path.name for path in directory.iterdir() if path.name.isdecimal()} == {"1", "2"}
        await serving.end(signal.SIGKILL)
        _, living = await asyncio.to_thread(psutil.wait_procs, workers, LIMIT_S)
        assert living == []
        assert not directory.exists()


async def test_worker_that_ends_before_it_served_ends_the_start(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """A service that cannot start all of its workers does not serve with fewer: it says so, status 1, and leaves none."""
    process = await larder.start(*TWO, **own_servers)
    async with asyncio.timeout(LIMIT_S):
        while len(workers := psutil.Process(process.pid).children()) < 2:
            await asyncio.sleep(0.01)
        workers[1].kill()
        said, _ = await process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(
        rf"larder serve: worker \d \(process {workers[1].pid}\) ended with status -9 before it served\n", said.decode()
    )
    assert [worker.pid for worker in workers if worker.is_running()] == []


async def test_unreachable_database_is_said_once(larder: Larder) -> None:
    """The same sentence and status as from one worker: no worker is started for nothing."""
    settings = {"LARDER_DATABASE_URL": "postgresql://me:s3cret@127.0.0.1:1/shop", "LARDER_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert re.fullmatch(r"PostgreSQL at 127\.0\.0\.1:1/shop .* cannot be reached .*", await larder.failure(*TWO, **settings))


def test_option_is_checked_like_the_setting(environment: pytest.MonkeyPatch) -> None:
    """The option wins over the variable, and a wrong one is refused in the same words."""
    environment.setenv("LARDER_WORKERS", "3")
    assert settings_for("2").workers == 2
    assert settings_for(None).workers == 3
    for wrong in ("none", "0", "65"):
        with pytest.raises(CommandFailed, match=r"^LARDER_WORKERS: "):
            settings_for(wrong)

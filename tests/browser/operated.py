"""A service as its operator knows it: two workers, servers of its own that can be killed, and clients who read and write."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from app.cli.demo import load_demo
from app.private_servers import PostgresServer, RedisServer
from tests.cli.larder_process import Larder, ServingLarder

READERS = 3
_PAUSE_S = 0.004
_IDS = ("mug-blue", "mug-white", "tea-assam-250", "tea-sencha-100", "jam-plum-340", "flour-spelt-1000", "salt-sea-250")


@dataclass(frozen=True, slots=True)
class Operated:
    """The running service and its servers."""

    service: ServingLarder
    postgres: PostgresServer
    redis: RedisServer

    @property
    def url(self) -> str:
        return self.service.url

    def kill_worker(self) -> None:
        """Kill the first worker."""
        workers = [child for child in psutil.Process(self.service.process.pid).children() if "larder_entry" in child.cmdline()]
        os.kill(min(worker.pid for worker in workers), signal.SIGKILL)


@asynccontextmanager
async def operated(
    directory: Path,
    postgres: PostgresServer,
    redis: RedisServer,
    settings: Mapping[str, str],
    *,
    workers: int,
    busy: bool = True,
) -> AsyncIterator[Operated]:
    """Start the service; while ``busy``, clients read all the time and sell something now and then."""
    directory.mkdir(exist_ok=True)
    serving = Larder(directory).serving(
        *("serve", "--workers", str(workers)), LARDER_DATABASE_URL=postgres.url, LARDER_REDIS_URL=redis.url, **settings
    )
    async with serving as service:
        clients: list[asyncio.Task[None]] = []
        if busy:
            await load_demo(service.url, None)
            await _sell_out(service.url)
            clients += [asyncio.create_task(_read(service.url)) for _ in range(READERS)]
            clients.append(asyncio.create_task(_sell(service.url)))
        try:
            yield Operated(service, postgres, redis)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _sell_out(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for product_id, stock in (("board-oak-40", 2), ("oil-olive-750", 5)):
            (await client.put(f"/products/{product_id}/stock", json={"stock": stock})).raise_for_status()


async def _read(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while True:
            with suppress(httpx.HTTPError):
                await client.get(f"/products/{random.choice(_IDS)}")
            await asyncio.sleep(_PAUSE_S)


async def _sell(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for number in range(1, 1_000_000):
            line = {"delta": -1, "reason": "sale", "reference": f"order-{number}"}
            with suppress(httpx.HTTPError):
                await client.post(f"/products/{random.choice(_IDS)}/stock/adjustments", json=line)
            await asyncio.sleep(0.15)

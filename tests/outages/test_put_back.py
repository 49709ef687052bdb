"""A data directory that is put back: the same system, timeline and versions, and another past."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from app.api.context import Larder
from app.cache.errors import CacheError
from app.cache.ports import Value
from app.cache.postgres.histories import choose
from app.cache.postgres.table_source import TableSource
from app.cache.write_through import Read, Status
from app.main import running
from app.postgres.migrations import upgrade
from app.private_servers import PostgresServer, start_postgres
from app.products.commands import Create, set_stock
from app.products.product import Draft
from app.products.source import PRODUCTS
from app.settings import Settings
from tests.harness.cluster import NO_DISK
from tests.harness.script import PATIENCE_S
from tests.limits import open_database

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

_AFTER = 200


@asynccontextmanager
async def _service(directory: Path, redis_url: str, namespace: str, *, by_start: bool) -> AsyncIterator["_Service"]:
    server = await start_postgres(directory / "postgres", options=NO_DISK)
    try:
        await upgrade(server.url)
        database = open_database(server.url, connections=5)
        await choose(database, PRODUCTS, by_start=by_start)
        await database.close()
        given = {"DATABASE_URL": server.url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace, "ACCESS": "open"}
        async with running(Settings.from_env({f"LARDER_{name}": value for name, value in given.items()})) as larder:
            yield _Service(server, larder, namespace)
    finally:
        await server.stop()


class _Service:
    def __init__(self, server: PostgresServer, larder: Larder, namespace: str) -> None:
        self.server = server
        self.products = larder.products
        self._namespace = namespace

    async def epoch(self) -> str:
        """The epoch that a new connection is told."""
        database = open_database(self.server.url, connections=5)
        try:
            return await TableSource(database.loads, PRODUCTS, self._namespace).tell_epoch()
        finally:
            await database.close()

    async def until_hit(self) -> None:
        """Read until the cache is trusted."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(CacheError):
                    if (await self.products.get("tray")).status is Status.HIT:
                        return
                await asyncio.sleep(0.02)

    async def until_loaded(self) -> Read:
        """Read until PostgreSQL answers: hits of a fence that was set before it was away go on until that fence ends."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(CacheError):
                    read = await self.products.get("tray")
                    if read.status is not Status.HIT:
                        return read
                await asyncio.sleep(0.02)


def _stock(read: Read) -> str:
    assert isinstance(read.state, Value)
    return read.state.payload.decode().partition('"stock":')[2].partition(",")[0]


def _copy(here: Path, there: Path) -> None:
    shutil.rmtree(there, ignore_errors=True)
    subprocess.run(["cp", "-a", str(here), str(there)], check=True)  # with owners, unlike shutil


async def test_data_directory_that_is_put_back(outage_directory: Path, redis_url: str, namespace: str) -> None:
    """With the start's time in the epoch nothing of the lost time is read again, though versions are given twice."""
    copy = outage_directory / "copy"
    async with _service(outage_directory, redis_url, namespace, by_start=True) as service:
        products, server = service.products, service.server
        await products.write(Create(Draft("tray", "Tray", 100, 1)))
        await server.kill()
        await asyncio.to_thread(_copy, server.data_dir, copy)
        await server.restart()
        await service.until_loaded()
        [lost] = await products.write(set_stock("tray", 2))
        await service.until_hit()
        await server.kill()
        await asyncio.to_thread(_copy, copy, server.data_dir)
        await server.restart()
        assert _stock(await service.until_loaded()) == "1"
        [again] = await products.write(set_stock("tray", 3))
        assert again.row.version == lost.row.version, "the version was not given twice, so the test shows nothing"
        await service.until_hit()
        assert {_stock(await products.get("tray")) for _ in range(_AFTER)} == {"3"}


async def test_restart_that_keeps_the_cache(outage_directory: Path, redis_url: str, namespace: str) -> None:
    """Without it a restart of PostgreSQL is no new epoch, and with it it is."""
    async with _service(outage_directory, redis_url, namespace, by_start=False) as service:
        before = await service.epoch()
        await service.server.restart()
        assert await service.epoch() == before
        database = open_database(service.server.url, connections=5)
        await choose(database, PRODUCTS, by_start=True)
        await database.close()
        started = await service.epoch()
        assert started != before
        await service.server.restart()
        assert await service.epoch() not in {started, before}

"""A failover between two hosts of one URL: a primary and its streaming standby, on real servers."""

import asyncio
import logging
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from app.cache.errors import CacheError
from app.main import running
from app.postgres.errors import DatabaseError
from app.postgres.migrations import upgrade
from app.private_servers import PostgresServer, start_postgres
from app.products.commands import Create, set_stock
from app.products.errors import OutcomeUnknown
from app.products.product import Draft
from app.products.service import Products
from app.settings import Settings
from tests.harness.cluster import NO_DISK
from tests.harness.script import PATIENCE_S
from tests.harness.servers import execute
from tests.harness.standby import copy_server, until_level

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

log = logging.getLogger(__name__)


def _directory(server: PostgresServer) -> str:
    return parse_qs(urlsplit(server.url).query)["host"][0]


async def _write(products: Products) -> int:
    """Write until a write is acknowledged; return the number of tries."""
    async with asyncio.timeout(2 * PATIENCE_S):
        for number in count(1):
            with suppress(DatabaseError, CacheError, OutcomeUnknown):
                await products.write(set_stock("tray", 7))
                return number
            await asyncio.sleep(0.05)
    raise AssertionError


@pytest.mark.parametrize("how", ["killed", "hanging"])
async def test_promoted_standby_is_found(outage_directory: Path, redis_url: str, namespace: str, how: str) -> None:
    """The standby is passed over while there is a primary, and is the primary after its promotion, without a restart."""
    primary = await start_postgres(outage_directory / "primary", options=NO_DISK)
    try:
        await upgrade(primary.url)
        standby = await copy_server(primary, outage_directory / "standby", "larder", streaming=True)
        try:
            await standby.start()
            # The standby is named first, so that it would be taken if a standby could be.
            hosts = f"host={_directory(standby)},{_directory(primary)}"
            url = f"postgresql://postgres@/larder?{hosts}&target_session_attrs=primary"
            given = {"DATABASE_URL": url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace, "ACCESS": "open"}
            given["DATABASE_STATEMENT_TIMEOUT_MS"] = "1000"
            async with running(Settings.from_env({f"LARDER_{name}": value for name, value in given.items()})) as larder:
                products = larder.products
                await products.write(Create(Draft("tray", "Tray", 100, 1)))
                await until_level(primary, standby)
                if how == "killed":
                    await primary.kill()
                else:
                    primary.pause()
                async with await psycopg.AsyncConnection.connect(standby.url, autocommit=True) as session:
                    await session.execute("SELECT pg_promote()")
                promoted = time.monotonic()
                tries = await _write(products)
                taken_s = time.monotonic() - promoted
                assert (await products.get("tray")).state.version >= 2
                assert await execute(standby.url, "SELECT stock FROM products") == [(7,)]
            log.info("%s: the first write was acknowledged %.1f s after the promotion, as try %d", how, taken_s, tries)
        finally:
            await standby.stop()
    finally:
        if how == "hanging":
            primary.resume()
        await primary.stop()

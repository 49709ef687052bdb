"""The end of ``larder serve`` while clients are in the middle of something."""

import asyncio
import signal
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from tests.cli.larder_process import LIMIT_S, Larder

_HALF = b"PUT /products/half HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
_GRACE_S = 17
"""The time that requests under way have."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_half_a_request_does_not_delay_the_stop(
    larder: Larder, own_servers: Mapping[str, str], number: signal.Signals
) -> None:
    """It is answered with 408 and nothing of it is done. A write that waits for its row is carried out and answered."""
    async with larder.serving("serve", **own_servers) as serving, httpx.AsyncClient(timeout=LIMIT_S) as client:
        tray = f"{serving.url}/products/tray"
        (await client.put(tray, json={"name": "Tray", "price_cents": 1})).raise_for_status()
        place = urlsplit(serving.url)
        halves = [await asyncio.open_connection(place.hostname, place.port) for _ in range(2)]
        halves[0][1].write(_HALF)
        halves[1][1].write(_HALF[:40])
        async with await psycopg.AsyncConnection.connect(own_servers["LARDER_DATABASE_URL"]) as other:
            await other.execute("SELECT FROM products WHERE id = 'tray' FOR UPDATE")
            write = asyncio.create_task(client.put(f"{tray}/stock", json={"stock": 7}))
            while not (await _waiting(own_servers["LARDER_DATABASE_URL"])):
                await asyncio.sleep(0.02)
            ended, began = asyncio.create_task(serving.end(number)), time.monotonic()
            async with asyncio.timeout(LIMIT_S):
                assert (await halves[0][0].read()).startswith(b"HTTP/1.1 408 ")
                await halves[1][0].read()
                await other.rollback()
                answer = await write
        assert (answer.status_code, answer.json()["stock"]) == (200, 7)
        assert await ended == 0
        assert time.monotonic() - began < _GRACE_S - 2
        for _, writer in halves:
            writer.close()


async def _waiting(url: str) -> bool:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await found.fetchone() is not None

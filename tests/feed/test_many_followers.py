"""Hundreds of followers on real connections: what they cost PostgreSQL and the process, and when the last one is told."""

import asyncio
import json
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.cli.larder_process import Larder
from tests.feed.test_service import cursor_of

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.long]

SECONDS = 12.0
"""How long statements are counted, while nobody is told anything."""
NEWS = b'"type":"product","id":"news"'
_STATEMENTS = re.compile(rb"^larder_database_statements_total (\S+)$", re.MULTILINE)
_TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
_SETTLES_S = 1.5
"""PostgreSQL reports what a busy session has done after a second."""


@pytest.fixture
def larder(servers_directory: Path) -> Larder:
    directory = servers_directory / "followers"
    directory.mkdir(exist_ok=True)
    return Larder(directory)


@pytest.fixture
def own_servers(database_url: str, redis_url: str, namespace: str) -> Mapping[str, str]:
    return {"LARDER_DATABASE_URL": database_url, "LARDER_REDIS_URL": redis_url, "LARDER_CACHE_NAMESPACE": namespace}


class Waiting:
    """A follower on a connection of its own, by long polls or a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def begin(cls, port: int) -> "Waiting":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def told(self, cursor: str, *, stream: bool) -> float:
        """Follow until the product is told; return when."""
        accept = "text/event-stream" if stream else "application/json"
        while True:
            query = f"after={cursor}" if stream else f"after={cursor}&wait=30"
            self._writer.write(f"GET /changes?{query} HTTP/1.1\r\nHost: larder\r\nAccept: {accept}\r\n\r\n".encode())
            head = await self._reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            if stream:
                await self._reader.readuntil(NEWS)
                return time.monotonic()
            [length] = re.findall(rb"(?i)content-length: (\d+)", head)
            body = await self._reader.readexactly(int(length))
            if NEWS in body:
                return time.monotonic()
            cursor = json.loads(body)["next"]

    def close(self) -> None:
        """Leave."""
        self._writer.close()


def resident_bytes(process: int) -> int:
    """The memory of a process."""
    [kilobytes] = re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


async def test_a_thousand_followers_cost_what_one_does(larder: Larder, own_servers: Mapping[str, str]) -> None:
    """One, 500 and 1,000 followers: the same statements by the service's count and PostgreSQL's, and each is told."""
    async with larder.serving("serve", **own_servers) as serving:
        port = int(serving.url.rpartition(":")[2])
        process = serving.process.pid
        async with (
            httpx.AsyncClient(base_url=serving.url, timeout=30) as client,
            await psycopg.AsyncConnection.connect(own_servers["LARDER_DATABASE_URL"], autocommit=True) as hand,
        ):

            async def count() -> tuple[float, float, int, float]:
                """Statements by the service's count and when, transactions by PostgreSQL's count and when."""
                [found] = _STATEMENTS.findall((await client.get("/metrics")).content)
                counted = time.monotonic()
                await asyncio.sleep(_SETTLES_S)
                row = await (await hand.execute(_TRANSACTIONS)).fetchone()
                return float(found), counted, row[0] if row else 0, time.monotonic()

            await client.put("/products/first", json={"name": "Mug", "price_cents": 1, "stock": 1})
            cursor = await cursor_of(client)
            costs: dict[int, tuple[float, float]] = {}
            for number in (0, 1, 500, 1_000):
                memory = resident_bytes(process)
                waiting = [await Waiting.begin(port) for _ in range(number)]
                following = [
                    asyncio.create_task(follower.told(cursor, stream=bool(place % 2))) for place, follower in enumerate(waiting)
                ]
                await asyncio.sleep(1)
                before = await count()
                await asyncio.sleep(SECONDS)
                gains = [new - old for new, old in zip(await count(), before, strict=True)]
                costs[number] = gains[0] / gains[1], gains[2] / gains[3]
                each = (resident_bytes(process) - memory) / number if number else 0
                sent = time.monotonic()
                await client.put("/products/news", json={"name": "Mug", "price_cents": 1 + number, "stock": 1})
                told = sorted(await asyncio.gather(*following))
                print(  # noqa: T201 - the figures
                    json.dumps(
                        {
                            "followers": number,
                            "statements a second": round(costs[number][0], 2),
                            "transactions a second": round(costs[number][1], 2),
                            "bytes each": round(each),
                            "first and last told after s": [round(at - sent, 3) for at in (told[0], told[-1])]
                            if told
                            else None,
                        }
                    )
                )
                for follower in waiting:
                    follower.close()
                cursor = await cursor_of(client)
                await asyncio.sleep(1)
        assert await serving.end(signal.SIGTERM) == 0
    of_followers = {number: tuple(cost - idle for cost, idle in zip(costs[number], costs[0], strict=True)) for number in costs}
    for number in (1, 500, 1_000):
        assert all(5 <= cost <= 12 for cost in of_followers[number]), costs

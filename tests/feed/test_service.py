"""The feed of the whole service on real servers: nothing lost, nothing out of order, and no read older than an event."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.real import service

QUICK = {"AUDIT_INTERVAL_MS": "50", "FENCE_TTL_MS": "600", "FENCE_TTL_MAX_MS": "600"}
WRITERS = 8
LAST = "z"
"""A product that is created when all writers are done. Within a window, the others come before it."""


@pytest.fixture
async def two(database_url: str, redis_url: str, namespace: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two instances of the service."""
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(service(database_url, redis_url, namespace, **QUICK)) for _ in range(2)]


async def cursor_of(client: httpx.AsyncClient) -> str:
    """The present cursor, once there is one."""
    async with asyncio.timeout(30):
        while (answer := await client.get("/changes")).status_code == 503:
            assert answer.json()["type"] == "/problems/feed-starting"
            await asyncio.sleep(0.05)
    cursor: str = answer.json()["next"]
    return cursor


@dataclass
class Seen:
    """What a follower was told."""

    versions: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    movements: list[tuple[str, int, int]] = field(default_factory=list)
    older: list[str] = field(default_factory=list)


async def follow(client: httpx.AsyncClient, reader: httpx.AsyncClient, cursor: str, seen: Seen) -> None:
    """Follow until the last product was told. After each product a GET at once must not be older."""
    while (LAST, 1, 0) not in seen.movements:
        answer = await client.get("/changes", params={"after": cursor, "wait": 5, "limit": 7})
        assert answer.status_code == 200, answer.text
        for item in answer.json()["items"]:
            if item["type"] == "movement":
                seen.movements.append((item["product_id"], item["version"], item["line"]))
                continue
            seen.versions[item["id"]].append(item["version"])
            assert item["product"]["version"] == item["version"]
            read = await reader.get(f"/products/{item['id']}")
            if read.json()["version"] < item["version"]:
                seen.older.append(f"{item['id']}: {read.json()['version']} after {item['version']}")
        cursor = answer.json()["next"]


async def write(client: httpx.AsyncClient, number: int, times: int) -> None:
    """Adjust stocks of a few products that all writers share."""
    for turn in range(times):
        lines = [{"product_id": f"p{(number + turn + step) % 5}", "delta": 1} for step in range(1 + turn % 3)]
        answer = await client.post("/stock/adjustments", json={"lines": lines, "reason": "receipt"})
        assert answer.status_code == 200, answer.text


async def run_writers(two: list[httpx.AsyncClient], times: int) -> None:
    """Follow on one instance while writers work on both."""
    for number in range(5):
        await two[0].put(f"/products/p{number}", json={"name": "Mug", "price_cents": 1, "stock": 0})
    cursor, seen = await cursor_of(two[0]), Seen()
    before = await _ledger(two[0])
    following = asyncio.create_task(follow(two[0], two[1], cursor, seen))
    await asyncio.gather(*(write(two[number % 2], number, times) for number in range(WRITERS)))
    await two[1].put(f"/products/{LAST}", json={"name": "Mug", "price_cents": 1, "stock": 0})
    await asyncio.wait_for(following, 60)
    assert seen.older == []
    for versions in seen.versions.values():
        assert versions == sorted(set(versions))  # none twice, none out of order
    for product_id in {product_id for product_id, _, _ in seen.movements}:
        told = [place for place in seen.movements if place[0] == product_id]
        assert told == sorted(set(told))
    after = await _ledger(two[0])
    assert {place for place in seen.movements if place[0] != LAST} | before == after  # none lost


async def _ledger(client: httpx.AsyncClient) -> set[tuple[str, int, int]]:
    found: set[tuple[str, int, int]] = set()
    for number in range(5):
        url: str | None = f"/products/p{number}/stock/movements?limit=250"
        while url:
            page = await client.get(url)
            found |= {(item["product_id"], item["version"], item["line"]) for item in page.json()["items"]}
            url = page.links.get("next", {}).get("url")
    return found


@pytest.mark.guarantee("R11")
async def test_eight_writers(two: list[httpx.AsyncClient]) -> None:
    """Nothing lost, nothing twice, nothing out of order, and no read that is older than what was told."""
    await run_writers(two, 12)


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.guarantee("R11")
async def test_eight_writers_for_long(two: list[httpx.AsyncClient]) -> None:
    """The same for some minutes."""
    await run_writers(two, 4_000)


async def test_a_follower_begins_and_goes_on(two: list[httpx.AsyncClient]) -> None:
    """Without a cursor it is given the present one; a wait that ends empty gives one, too; an event ends the wait."""
    client = two[0]
    cursor = await cursor_of(client)
    empty = await client.get("/changes", params={"after": cursor})
    assert (empty.json(), empty.headers["Cache-Control"]) == ({"items": [], "next": cursor, "more": False}, "no-store")
    waiting = asyncio.create_task(client.get("/changes", params={"after": cursor, "wait": 30, "types": "product"}))
    await asyncio.sleep(0)
    await two[1].put("/products/mug", json={"name": "Mug", "price_cents": 1, "stock": 3})
    answer = await asyncio.wait_for(waiting, 20)
    [item] = answer.json()["items"]
    assert item == {"type": "product", "id": "mug", "version": 1, "product": (await client.get("/products/mug")).json()}
    await two[1].delete("/products/mug")
    items: list[dict[str, Any]] = []
    while not items:
        page = await client.get("/changes", params={"after": answer.json()["next"], "wait": 5})
        items = page.json()["items"]
    assert items[0] == {"type": "product", "id": "mug", "version": 2, "product": None}
    ledger = (await client.get("/products/mug/stock/movements")).json()["items"]
    assert items[1] == {"type": "movement"} | ledger[0]


async def test_another_history_is_told_to_the_follower(two: list[httpx.AsyncClient], database_url: str) -> None:
    """After TRUNCATE the feed begins anew: an old cursor is 410 and says how to resync."""
    client = two[0]
    cursor = await cursor_of(client)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
        await hand.execute("TRUNCATE products")
    async with asyncio.timeout(30):
        while await cursor_of(client) == cursor:
            await asyncio.sleep(0.05)
    gone = await client.get("/changes", params={"after": cursor})
    assert (gone.status_code, gone.json()["type"]) == (410, "/problems/cursor-of-another-history")
    assert gone.json()["resync"] == ["/changes", "/products"]

"""Buckets move from one database to another: nothing is lost, nothing is there twice, and nobody reads the past."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import LiteralString
from uuid import uuid4

import httpx
import psycopg
import pytest

from app.buckets import bucket_of, moved_to, parse_ranges
from app.cache.slot import FORMAT
from app.postgres.database import Database
from app.products.balance import deviations
from app.products.commands import set_stock
from app.products.decision import Denied
from app.products.errors import BucketMoving, NotHere, Refused
from app.products.idempotency import WriteRequest
from app.products.pair import Pair
from app.products.pair_move import CannotMove, Move
from app.products.pair_table import held_buckets, hold
from app.products.transactions import ProductTransactions
from tests.api.real import service
from tests.conftest import SessionPostgres
from tests.harness.servers import create_database, drop_database, execute, know_history, new_name
from tests.limits import open_database

LEAVING, STAYING, ELSEWHERE = moved_to(500, "mug-0000"), moved_to(3, "cup-0000"), moved_to(900, "jug-0000")
_CREATE = "INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'x', 1, %s)"
_RESERVE = """
INSERT INTO reservations (id, status, expires_at, created_at, updated_at, closed_at)
VALUES (%s, %s, now() + interval '1 h', now(), now(), %s)
"""
_WAITS = """
SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
WHERE NOT l.granted AND l.mode = 'ExclusiveLock'
"""
_HOLD = """
INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, committed, expires_at)
VALUES (%s, 0, %s, 2, %s, now() + interval '1 h')
"""
_ANSWER = """
INSERT INTO idempotency_records (caller, key, request_hash, status, body, product_ids) VALUES ('till', %s, %s, 200, %s, %s)
"""


async def _by_hand(url: str, statement: LiteralString, *values: object) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement, values)


@dataclass
class Two:
    """Two databases, each with its part of the products."""

    urls: Mapping[str, str]
    databases: Mapping[str, Database]
    said: list[str] = field(default_factory=list)
    breaks_at: str = ""
    """The move breaks off when it says this."""

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.breaks_at and self.breaks_at in text:
            raise ConnectionError("the operator's machine went away")

    async def move(self, ranges: str, way: str = "ab", good_for_s: float = 0) -> int:
        """Move buckets from the first of ``way`` to the second."""
        source, target = (self.databases[name] for name in way)
        return await Move(source, target, parse_ranges(ranges), self.say, good_for_s=good_for_s).run()

    async def held(self) -> list[tuple[str, str] | None]:
        return [await held_buckets(database) for database in self.databases.values()]

    async def rows(self, name: str) -> dict[str, tuple[int, int, bool]]:
        """Stock, version and life of every row of a database."""
        return {
            row[0]: (row[1], row[2], row[3])
            for row in await execute(self.urls[name], "SELECT id, stock, version, deleted_at IS NULL FROM products")
        }

    async def balanced(self) -> bool:
        """Whether stocks, ledgers and reservations agree in both databases."""
        return not any([await deviations(database, limit=1) for database in self.databases.values()])


@pytest.fixture
async def two(database_url: str, postgres: SessionPostgres, migrated_template: str) -> AsyncIterator[Two]:
    name = new_name()
    urls = {"a": database_url, "b": await create_database(postgres.url, name, template=migrated_template)}
    databases = {key: open_database(url) for key, url in urls.items()}
    for key, ranges in (("a", "0-511"), ("b", "512-1023")):
        await hold(databases[key], ranges)
    yield Two(urls, databases)
    for database in databases.values():
        await database.close()
    await drop_database(postgres.url, name)


async def test_what_moves_and_what_stays(two: Two) -> None:
    """A product leaves with its stock, its ledger and a higher version; the place where it was has a tombstone."""
    for product_id, stock in ((LEAVING, 7), (STAYING, 5)):
        await _by_hand(two.urls["a"], _CREATE, product_id, stock)
    assert await two.move("500-511") == 1
    assert await two.held() == [("0-499", ""), ("500-1023", "")]
    assert await two.rows("a") == {LEAVING: (0, 2, False), STAYING: (5, 1, True)}
    assert await two.rows("b") == {LEAVING: (7, 3, True)}
    ledger = "SELECT version, delta, stock_after, reason, reference FROM stock_movements ORDER BY version"
    assert await execute(two.urls["b"], ledger) == [
        (1, 7, 7, "opening", "sql"),
        (2, -7, 0, "deletion", "larder buckets move"),
        (3, 7, 7, "opening", "larder buckets move"),
    ]
    assert await two.balanced()


async def test_there_and_back_again(two: Two) -> None:
    """Versions go on in both directions, a product that was deleted meanwhile stays so, and a product without stock moves."""
    gone, empty = moved_to(501, "old-0000"), moved_to(502, "new-0000")
    for product_id, stock in ((LEAVING, 7), (gone, 1), (empty, 0)):
        await _by_hand(two.urls["a"], _CREATE, product_id, stock)
    assert await two.move("500-502") == 3
    await _by_hand(two.urls["b"], "DELETE FROM products WHERE id = %s", gone)
    assert await two.move("500-502", "ba") == 2
    assert await two.held() == [("0-511", ""), ("512-1023", "")]
    assert await two.rows("a") == {LEAVING: (7, 5, True), gone: (0, 4, False), empty: (0, 5, True)}
    assert not any(lives for _, _, lives in (await two.rows("b")).values())
    assert await two.balanced()


@pytest.mark.parametrize("place", ["writes are refused", "have left"])
async def test_a_move_that_broke_off_is_finished(two: Two, place: str) -> None:
    """Wherever it broke off, the same call goes on, and nothing is there twice."""
    await _by_hand(two.urls["a"], _CREATE, LEAVING, 7)
    two.breaks_at = place
    with pytest.raises(ConnectionError):
        await two.move("500-511")
    assert (await two.held())[0] == ("0-511" if place == "writes are refused" else "0-499", "500-511")
    two.breaks_at = ""
    await two.move("500-511")
    assert await two.held() == [("0-499", ""), ("500-1023", "")]
    assert await two.rows("b") == {LEAVING: (7, 3, True)}
    assert await two.balanced()
    with pytest.raises(CannotMove, match="the source holds 0-499 and the target holds 500-1023"):
        await two.move("500-511")


async def test_what_is_held_does_not_move(two: Two) -> None:
    """While units are held, the buckets stay, and writes go on."""
    await _by_hand(two.urls["a"], _CREATE, LEAVING, 7)
    await _by_hand(two.urls["a"], "UPDATE products SET reserved = 2 WHERE id = %s", LEAVING)
    await _by_hand(two.urls["a"], _RESERVE, "0" * 32, "held", None)
    await _by_hand(two.urls["a"], _HOLD, "0" * 32, LEAVING, 0)
    with pytest.raises(CannotMove, match=f"units of {LEAVING} are held"):
        await two.move("500-511")
    assert await two.held() == [("0-511", ""), ("512-1023", "")]


async def test_answers_and_closed_reservations_move(two: Two) -> None:
    """A retry finds its answer at the new place, and a reservation that has ended can be read there."""
    cart = moved_to(500, "0" * 32)
    here = two.urls["a"]
    await _by_hand(here, _ANSWER, "k", b"\x00\xff", b"{}", [STAYING, LEAVING])
    await _by_hand(here, _ANSWER, "other", b"\x01", b"{}", [STAYING])
    await _by_hand(here, _RESERVE, cart, "committed", datetime.now(UTC))
    await _by_hand(here, _HOLD, cart, LEAVING, 2)
    await two.move("500-511")
    there = two.urls["b"]
    assert await execute(there, "SELECT caller, key, request_hash, body FROM idempotency_records") == [
        ("till", "k", b"\x00\xff", b"{}")
    ]
    assert await execute(there, "SELECT id, status FROM reservations") == [(cart, "committed")]
    assert await execute(there, "SELECT product_id, committed, open FROM reservation_lines") == [(LEAVING, 2, 0)]


class Router:
    """Sends a request to the pair that its map names, and corrects the map after 421."""

    def __init__(self, clients: Mapping[str, httpx.AsyncClient]) -> None:
        self._clients = clients
        self._map = {bucket: "a" if bucket < 512 else "b" for bucket in range(1024)}
        self.statuses: dict[int, int] = {}

    async def send(self, method: str, product_id: str, path: str = "", **request: object) -> httpx.Response:
        """Send until it is answered by the pair that has the product."""
        bucket = bucket_of(product_id)
        async with asyncio.timeout(60):
            while True:
                answer = await self._clients[self._map[bucket]].request(method, f"/products/{product_id}{path}", **request)  # type: ignore[arg-type]  # as httpx
                self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
                if answer.status_code == 421:
                    self._map[bucket] = "b" if self._map[bucket] == "a" else "a"
                elif answer.status_code != 503:
                    return answer
                await asyncio.sleep(0.02)


@pytest.mark.alone
@pytest.mark.slow
async def test_a_move_under_load(two: Two, redis_url: str, namespace: str) -> None:
    """Two moves, there and back, while products are sold: each sale is done once, and no read is older than an answer."""
    ids = [moved_to(500 + number, f"{number}-0000") for number in range(6)] + [STAYING, ELSEWHERE]
    async with AsyncExitStack() as opened:
        clients = {}
        for name, ranges in (("a", "0-511"), ("b", "512-1023")):
            await know_history(two.urls[name], f"{namespace}-{name}~{FORMAT}")
            running = service(two.urls[name], redis_url, f"{namespace}-{name}", BUCKETS=ranges)
            clients[name] = await opened.enter_async_context(running)
        router = Router(clients)
        for product_id in ids:
            made = await router.send("PUT", product_id, json={"name": "x", "price_cents": 1, "stock": 1_000_000})
            assert made.status_code == 201
        stopping = asyncio.Event()
        sold = dict.fromkeys(ids, 0)

        async def sell(product_id: str) -> None:
            while not stopping.is_set():
                key = {"Idempotency-Key": uuid4().hex}
                body = {"delta": -1, "reason": "sale"}
                done = await router.send("POST", product_id, "/stock/adjustments", json=body, headers=key)
                assert done.status_code == 200, done.text
                sold[product_id] += 1
                read = await router.send("GET", product_id)
                assert read.status_code == 200, read.text
                assert read.json()["version"] >= done.json()["product"]["version"]
                assert read.json()["stock"] == 1_000_000 - sold[product_id]

        selling = [asyncio.create_task(sell(product_id)) for product_id in ids]
        before = dict(sold)
        assert await two.move("500-511", good_for_s=2.0) == 6
        assert await two.move("500-511", "ba", good_for_s=2.0) == 6
        await asyncio.sleep(1.0)  # sales go on at the place where they began
        stopping.set()
        await asyncio.gather(*selling)
        assert all(sold[product_id] > before[product_id] for product_id in ids)
        assert router.statuses[421] >= 2
        assert router.statuses[503] >= 2
    rows = {name: await two.rows(name) for name in two.urls}
    for product_id in ids:
        living = [row[product_id] for row in rows.values() if product_id in row and row[product_id][2]]
        assert [stock for stock, _, _ in living] == [1_000_000 - sold[product_id]]
    assert await two.balanced()


async def test_a_writer_reads_the_buckets_behind_its_locks(two: Two) -> None:
    """A request that passed every check before the move began is decided by what the database says now."""
    await _by_hand(two.urls["a"], _CREATE, LEAVING, 7)
    pair = Pair("0-511")
    transactions = ProductTransactions(two.databases["a"], pair=pair)

    async def refusal() -> type[Refused] | None:
        [decision] = (await transactions.commit([WriteRequest(set_stock(LEAVING, 9))])).decisions
        return type(decision.refusal) if isinstance(decision, Denied) else None

    assert await refusal() is None
    for held, moving, expected in (
        ("0-511", "500", BucketMoving),
        ("0-499,501-511", "500", BucketMoving),
        ("0-3", "", NotHere),
    ):
        await _by_hand(two.urls["a"], "UPDATE pair_buckets SET held = %s, moving = %s", held, moving)
        pair.become("0-511", "")
        assert await refusal() is expected
    assert (await two.rows("a"))[LEAVING][0] == 9


async def test_a_move_waits_for_writers_that_began_before(two: Two) -> None:
    """Whoever has locked a product, and read which buckets are here, finishes before the buckets move."""
    await _by_hand(two.urls["a"], _CREATE, LEAVING, 7)
    async with await psycopg.AsyncConnection.connect(two.urls["a"]) as writer:
        await writer.execute("SELECT FROM products WHERE id = %s FOR NO KEY UPDATE", [LEAVING])
        moving = asyncio.create_task(two.move("500"))
        async with asyncio.timeout(20):
            while await execute(two.urls["a"], _WAITS) != [(1,)]:
                await asyncio.sleep(0.01)
        assert (await two.held())[0] == ("0-511", "")
        await writer.execute("UPDATE products SET stock = 4 WHERE id = %s", [LEAVING])
        await writer.commit()
        assert await moving == 1
    assert (await two.rows("b"))[LEAVING][0] == 4


@pytest.mark.parametrize("place", ["a", "b"])
async def test_a_move_waits_for_the_fences_of_before(two: Two, place: str) -> None:
    """The bucket gets its new place when no cache is trusted that was proven before, in either database."""
    url = two.urls[place]
    await _by_hand(url, "DELETE FROM cache_audits")
    await _by_hand(url, "INSERT INTO cache_audits (namespace, fenced_until) VALUES ('x', clock_timestamp() + interval '1.5 s')")
    await two.move("500")
    assert await execute(url, "SELECT fenced_until < clock_timestamp() FROM cache_audits") == [(True,)]

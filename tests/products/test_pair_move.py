"""Buckets move from one database to another: nothing is lost, nothing is there twice, and nobody reads the past."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import LiteralString

import psycopg
import pytest

from app.buckets import moved_to, parse_ranges
from app.postgres.database import Database
from app.products.balance import deviations
from app.products.commands import set_stock
from app.products.decision import Denied
from app.products.errors import BucketMoving, NotHere, Refused
from app.products.idempotency import WriteRequest
from app.products.pair import Pair
from app.products.pair_move import CannotMove, Move
from app.products.pair_queries import LOCK_MOVES
from app.products.pair_table import held_buckets, hold
from app.products.transactions import ProductTransactions
from tests.conftest import SessionPostgres
from tests.harness.servers import create_database, drop_database, execute, new_name
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


async def test_one_move_at_a_time(two: Two) -> None:
    """A second move that uses one of the databases is refused, and changes nothing."""
    async with await psycopg.AsyncConnection.connect(two.urls["b"]) as other:
        await other.execute(LOCK_MOVES)
        with pytest.raises(CannotMove, match="another move"):
            await two.move("500")
    assert await two.held() == [("0-511", ""), ("512-1023", "")]
    assert await two.move("500") == 0


async def test_a_move_that_broke_off_can_be_given_up(two: Two) -> None:
    """Before anything has left, the same call takes the refusal of writes back if units are held."""
    await _by_hand(two.urls["a"], _CREATE, LEAVING, 7)
    two.breaks_at = "writes are refused"
    with pytest.raises(ConnectionError):
        await two.move("500")
    two.breaks_at = ""
    assert (await two.held())[0] == ("0-511", "500")
    await _by_hand(two.urls["a"], "UPDATE products SET reserved = 2 WHERE id = %s", LEAVING)
    await _by_hand(two.urls["a"], _RESERVE, "0" * 32, "held", None)
    await _by_hand(two.urls["a"], _HOLD, "0" * 32, LEAVING, 0)
    with pytest.raises(CannotMove, match="are held"):
        await two.move("500")
    assert (await two.held())[0] == ("0-511", "")


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

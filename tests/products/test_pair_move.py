"""Buckets move from one database to another: nothing is lost, nothing is there twice, and nobody reads the past."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
import pytest

from app.buckets import moved_to
from app.postgres.errors import DatabaseError
from app.products.pair_move import BrokenOff, CannotMove
from app.products.pair_queries import LOCK_MOVES
from tests.harness.servers import execute
from tests.products.two import CREATE, HOLD, LEAVING, RESERVE, STAYING, Two, by_hand

_LOCKED = """
SELECT 1 FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_END_LOCKS = _LOCKED.replace("SELECT 1 FROM", "SELECT pg_terminate_backend(pid) FROM")
_ANSWER = """
INSERT INTO idempotency_records (caller, key, request_hash, status, body, product_ids) VALUES ('till', %s, %s, 200, %s, %s)
"""


async def test_what_moves_and_what_stays(two: Two) -> None:
    """A product leaves with its stock, its ledger and a higher version; the place where it was has a tombstone."""
    for product_id, stock in ((LEAVING, 7), (STAYING, 5)):
        await by_hand(two.urls["a"], CREATE, product_id, stock)
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
        await by_hand(two.urls["a"], CREATE, product_id, stock)
    assert await two.move("500-502") == 3
    await by_hand(two.urls["b"], "DELETE FROM products WHERE id = %s", gone)
    assert await two.move("500-502", "ba") == 2
    assert await two.held() == [("0-511", ""), ("512-1023", "")]
    assert await two.rows("a") == {LEAVING: (7, 5, True), gone: (0, 4, False), empty: (0, 5, True)}
    assert not any(lives for _, _, lives in (await two.rows("b")).values())
    assert await two.balanced()


@pytest.mark.parametrize(
    "place", ["writes are refused", "reads are refused", "have left", "have arrived", "the other database holds"]
)
async def test_a_move_that_broke_off_is_finished(two: Two, place: str) -> None:
    """Wherever it broke off, nobody but the source or the target holds the buckets; the same call goes on."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    two.breaks_at = place
    with pytest.raises(ConnectionError):
        await two.move("500-511")
    here, there = await two.held()
    assert here == ("0-511" if place == "writes are refused" else "0-499", "500-511")
    receives = place not in ("writes are refused", "the other database holds")
    assert there == ("500-1023" if "holds" in place else "512-1023", "500-511" if receives else "")
    two.breaks_at = ""
    with pytest.raises(CannotMove, match="a move of 500-511 is not finished in the source"):
        await two.move("500-510")
    await two.move("500-511")
    assert await two.held() == [("0-499", ""), ("500-1023", "")]
    assert await two.rows("b") == {LEAVING: (7, 3, True)}
    assert await two.balanced()
    with pytest.raises(CannotMove, match="the source holds 0-499 and the target holds 500-1023"):
        await two.move("500-511")


async def test_a_target_that_was_restored_to_before_the_move_gets_the_products_again(two: Two) -> None:
    """They are tombstones at the source, which is given the bucket back and moves it once more."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    await two.move("500")
    # As if the target had been restored.
    for statement in ("ALTER TABLE stock_movements DISABLE TRIGGER ALL", "DELETE FROM stock_movements", "TRUNCATE products"):
        await execute(two.urls["b"], statement)
    await by_hand(two.urls["b"], "UPDATE pair_buckets SET held = '512-1023'")
    await by_hand(two.urls["a"], "UPDATE pair_buckets SET held = '0-511'")
    assert await two.move("500") == 1
    assert await two.rows("b") == {LEAVING: (7, 3, True)}
    assert await two.held() == [("0-499,501-511", ""), ("500,512-1023", "")]
    assert await two.balanced()


_HOLD_IN = "UPDATE pair_buckets SET held = %s, moving = %s, move = %s"
_MOVE = "SELECT move FROM pair_buckets"


@pytest.mark.parametrize("came_to", ["have arrived", "its end"])
async def test_a_source_that_was_restored_to_a_time_within_the_move(two: Two, came_to: str) -> None:
    """Its products live again, and are older than those of the target: they do not get there, and are not forgotten, either."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    two.breaks_at = "reads are refused"
    with pytest.raises(ConnectionError):
        await two.move("500")
    [backup] = await execute(two.urls["a"], "SELECT held, moving, move FROM pair_buckets")
    two.breaks_at = came_to
    with suppress(ConnectionError):
        await two.move("500")
    await by_hand(two.urls["b"], "UPDATE products SET stock = 1 WHERE id = %s", LEAVING)
    for statement in ("ALTER TABLE stock_movements DISABLE TRIGGER ALL", "DELETE FROM stock_movements", "TRUNCATE products"):
        await execute(two.urls["a"], statement)
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    await by_hand(two.urls["a"], _HOLD_IN, *backup)
    two.breaks_at = ""
    if came_to == "its end":
        with pytest.raises(CannotMove, match="--bury"):
            await two.move("500")
    else:
        assert await two.move("500") == 1
    assert (await two.rows("b"))[LEAVING] == (1, 4, True)


async def test_an_older_product_of_the_target_is_not_taken_for_what_arrives(two: Two) -> None:
    """It lives there, from before a restore: the move does not go on."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    await by_hand(two.urls["b"], CREATE, LEAVING, 3)
    with pytest.raises(BrokenOff, match=f"older product {LEAVING}"):
        await two.move("500")
    assert await two.held() == [("0-499,501-511", "500"), ("512-1023", "500")]


async def test_a_move_that_begins_again_is_another_one(two: Two) -> None:
    """Else a second target, to which the first call was, could take what the source has left behind for its own."""
    await by_hand(two.urls["a"], _HOLD_IN, "0-511", "500", "first")
    await by_hand(two.urls["b"], _HOLD_IN, "512-1023", "500", "first")
    two.breaks_at = "reads are refused"
    with pytest.raises(ConnectionError):
        await two.move("500")
    [[(here,)], [(there,)]] = [await execute(url, _MOVE) for url in two.urls.values()]
    assert here == there != "first"


async def test_a_late_move_does_not_undo_its_successor(two: Two) -> None:
    """It has lost its locks, and fails while it still could be undone; another call has gone on meanwhile."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    two.stops_at = two.breaks_after = "nothing is held"
    late = asyncio.create_task(two.move("500"))
    await two.until_told("nothing is held", late)
    for url in two.urls.values():
        await execute(url, _END_LOCKS)
    async with asyncio.timeout(20):
        while any([await execute(url, _LOCKED) for url in two.urls.values()]):
            await asyncio.sleep(0.01)
    two.stops_at, two.breaks_at = "", "have arrived"
    with pytest.raises(ConnectionError):
        await two.move("500")
    two.breaks_at = ""
    two.go.set()
    with pytest.raises((ConnectionError, DatabaseError)):
        await late
    assert await two.held() == [("0-499,501-511", "500"), ("512-1023", "500")]
    assert await two.move("500") == 1


async def test_a_target_that_another_command_has_changed_undoes_the_move(two: Two) -> None:
    """Nothing has left yet, so writes go on."""
    two.stops_at = "writes are refused"
    moving = asyncio.create_task(two.move("500"))
    await two.until_told("writes are refused", moving)
    await by_hand(two.urls["b"], _HOLD_IN, "500,512-1023", "", "")
    two.go.set()
    with pytest.raises(CannotMove, match="another command has changed"):
        await moving
    assert (await two.held())[0] == ("0-511", "")


async def test_one_key_for_two_requests_is_in_the_way(two: Two) -> None:
    """The target keeps the answer to another request under the same key of the same client: neither may be lost."""
    await by_hand(two.urls["a"], _ANSWER, "k", b"\x00", b"{}", [LEAVING])
    await by_hand(two.urls["b"], _ANSWER, "k", b"\x01", b"{}", [])
    with pytest.raises(CannotMove, match="under the idempotency key k"):
        await two.move("500")
    assert await two.held() == [("0-511", ""), ("512-1023", "")]


async def test_what_cannot_be_done_in_the_beginning_is_undone(two: Two) -> None:
    """While reads go on, a failure takes the refusal of writes back."""
    two.breaks_at = "nothing is held"
    with pytest.raises(ConnectionError):
        await two.move("500-511")
    assert await two.held() == [("0-511", ""), ("512-1023", "")]


async def test_an_old_move_is_not_finished_in_a_later_one(two: Two) -> None:
    """The last step broke off, and the bucket has moved on: the same call must not give it to the target again."""
    two.breaks_at = "the other database holds"
    with pytest.raises(ConnectionError):
        await two.move("500")
    two.breaks_at = ""
    # As if another move, to the target, from where the bucket went meanwhile, had broken off.
    await by_hand(two.urls["b"], "UPDATE pair_buckets SET held = '512-1023', moving = '500', move = 'other'")
    with pytest.raises(CannotMove, match="they were being moved to another one"):
        await two.move("500")
    assert await two.held() == [("0-499,501-511", "500"), ("512-1023", "500")]


async def test_a_move_that_lost_its_lock_changes_nothing_later(two: Two) -> None:
    """It stops before its last step, and its locks are lost. Others finish it and move the bucket back; then it goes on."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    two.stops_at = "have arrived"
    late = asyncio.create_task(two.move("500"))
    await two.until_told("have arrived", late)
    two.stops_at = ""
    for url in two.urls.values():
        await execute(url, _END_LOCKS)
    async with asyncio.timeout(20):
        while any([await execute(url, _LOCKED) for url in two.urls.values()]):
            await asyncio.sleep(0.01)
    assert await two.move("500") == 1
    assert await two.move("500", "ba") == 1
    two.go.set()
    with pytest.raises((BrokenOff, DatabaseError)):
        await late
    assert await two.held() == [("0-511", ""), ("512-1023", "")]
    assert await two.rows("a") == {LEAVING: (7, 5, True)}


async def test_what_is_held_does_not_move(two: Two) -> None:
    """While units are held, the buckets stay, and writes go on."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    await by_hand(two.urls["a"], "UPDATE products SET reserved = 2 WHERE id = %s", LEAVING)
    await by_hand(two.urls["a"], RESERVE, "0" * 32, "held", None)
    await by_hand(two.urls["a"], HOLD, "0" * 32, LEAVING, 0)
    with pytest.raises(CannotMove, match=f"units of {LEAVING} are held"):
        await two.move("500-511")
    assert await two.held() == [("0-511", ""), ("512-1023", "")]


async def test_answers_and_closed_reservations_move(two: Two) -> None:
    """A retry finds its answer at the new place, and a reservation that has ended can be read there."""
    cart = moved_to(500, "0" * 32)
    here = two.urls["a"]
    await by_hand(here, _ANSWER, "k", b"\x00\xff", b"{}", [STAYING, LEAVING])
    await by_hand(here, _ANSWER, "other", b"\x01", b"{}", [STAYING])
    await by_hand(here, RESERVE, cart, "committed", datetime.now(UTC))
    await by_hand(here, HOLD, cart, LEAVING, 2)
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
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    two.breaks_at = "writes are refused"
    with pytest.raises(ConnectionError):
        await two.move("500")
    two.breaks_at = ""
    assert (await two.held())[0] == ("0-511", "500")
    await by_hand(two.urls["a"], "UPDATE products SET reserved = 2 WHERE id = %s", LEAVING)
    await by_hand(two.urls["a"], RESERVE, "0" * 32, "held", None)
    await by_hand(two.urls["a"], HOLD, "0" * 32, LEAVING, 0)
    with pytest.raises(CannotMove, match="are held"):
        await two.move("500")
    assert (await two.held())[0] == ("0-511", "")


@pytest.mark.parametrize("place", ["a", "b"])
async def test_a_move_waits_for_the_fences_of_before(two: Two, place: str) -> None:
    """The bucket gets its new place when no cache is trusted that was proven before, in either database."""
    url = two.urls[place]
    await by_hand(url, "DELETE FROM cache_audits")
    await by_hand(url, "INSERT INTO cache_audits (namespace, fenced_until) VALUES ('x', clock_timestamp() + interval '1.5 s')")
    await two.move("500")
    assert await execute(url, "SELECT fenced_until < clock_timestamp() FROM cache_audits") == [(True,)]

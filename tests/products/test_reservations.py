"""Reservations on real servers: who is first, what a wait changes, SQL by hand, the tidier, and the last units."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import LiteralString

import psycopg
import pytest

from app.cache.ports import Value
from app.postgres.errors import DatabaseFailed
from app.products import balance
from app.products.commands import Adjust, delete, set_stock
from app.products.errors import (
    InsufficientStock,
    ProductReserved,
    Refused,
    ReservationClosed,
    ReservationExpired,
    Shortage,
)
from app.products.product import Line, Reason
from app.products.reservation import HeldUnits, Part, RequestedLine, Reservation, Status
from app.products.reservation_commands import Commit, Extend, Release, ReservationCommand, Reserve
from app.products.source import ProductSource
from app.products.tidier import Tidier
from app.settings import Settings
from tests.limits import open_database
from tests.products.instances import LATER, ROWS, Instance, by_hand, held, instance, once, rows
from tests.products.reservation_histories import WRONGLY_CLOSED
from tests.products.reservation_mutants import ReadsLinesBeforeLocks, ReadsMomentBeforeLocks


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Without a tidier: nothing may depend on it."""
    return settings.model_copy(update={"reservation_tidy_ms": 0})


@pytest.fixture(autouse=True)
async def adds_up(settings: Settings) -> AsyncIterator[None]:
    """After every test stocks, held units, ledger, lines and the ends of reservations agree."""
    yield
    assert await rows(settings, WRONGLY_CLOSED) == []
    database = open_database(settings.database_url)
    assert await balance.deviations(database, limit=9) == []
    await database.close()


async def hold(larder: Instance, life_s: int = 60, **units: int) -> Reservation:
    return await larder.products.reserve(Reserve([RequestedLine(key, quantity) for key, quantity in units.items()], life_s))


async def pass_an_hour(settings: Settings) -> None:
    async with by_hand(settings) as hand:
        await hand.execute(LATER)


async def until_waiting(settings: Settings, number: int, text: str = "") -> None:
    """Return when so many sessions wait for a lock, in a statement with this text."""
    waits = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND strpos(query, %(text)s) > 0
    """
    async with asyncio.timeout(20):
        while len(await rows(settings, waits, {"text": text})) < number:
            await asyncio.sleep(0)


async def outcome(larder: Instance, command: ReservationCommand) -> str:
    try:
        return (await larder.products.reserve(command)).status.value
    except Refused as refusal:
        return type(refusal).__name__


async def available(larder: Instance, product_id: str) -> tuple[bytes, bytes]:
    """What the cache says, and what PostgreSQL says."""
    cached = (await larder.products.get(product_id)).state
    loaded = (await larder.products.get(product_id, refresh=True)).state
    assert isinstance(cached, Value)
    assert isinstance(loaded, Value)
    return cached.payload, loaded.payload


async def test_two_instances_commit_one_hold(larder: Instance, other: Instance) -> None:
    """Whoever comes second reads the lines as the first one left them, even if it waited for their product."""
    await larder.stock("a", "b")
    for _ in range(10):
        made = await hold(larder, a=1, b=1)
        commands: list[tuple[Instance, ReservationCommand]] = [
            (larder, Commit(made.id)), (other, Commit(made.id)), (other, Release(made.id)), (larder, Extend(made.id, 600)),
        ]  # fmt: skip
        told = await asyncio.gather(*(outcome(at, command) for at, command in commands))
        assert sorted(told[:3]).count("committed") + sorted(told[:3]).count("released") == 1
        assert set(told) <= {"committed", "released", "held", "ReservationClosed"}
        await larder.products.write(set_stock("a", 10))
        await larder.products.write(set_stock("b", 10))


async def commits_that_waited(larder: Instance, other: Instance, settings: Settings) -> list[str]:
    """Two commits of one hold wait for its product; return what they are told."""
    await larder.stock("a")
    made = await hold(larder, a=3)
    async with held(settings, ROWS, ["a"]):
        commits = [asyncio.create_task(outcome(at, Commit(made.id))) for at in (larder, other)]
        await until_waiting(settings, 2)
    return sorted([await commit for commit in commits])


async def test_commits_that_waited_together(larder: Instance, other: Instance, settings: Settings) -> None:
    """Both waited for the product; the second one reads the lines after its wait, and finds that they are sold."""
    assert await commits_that_waited(larder, other, settings) == ["ReservationClosed", "committed"]


async def test_mutant_lines_before_the_wait(larder: Instance, other: Instance, settings: Settings) -> None:
    """The test above sees transactions that read the lines before their wait. A CHECK of the table keeps the worst away."""
    for at in (larder, other):
        at.products._transactions.__class__ = ReadsLinesBeforeLocks
    with pytest.raises(DatabaseFailed):
        await commits_that_waited(larder, other, settings)


async def late_commit(larder: Instance, settings: Settings) -> str:
    """A commit begins before the end of its hold and gets its row after it; return what it is told."""
    await larder.stock("a")
    made = await hold(larder, a=4)
    async with held(settings, ROWS, ["a"]):
        commit = asyncio.create_task(outcome(larder, Commit(made.id)))
        await until_waiting(settings, 1)
        await pass_an_hour(settings)
    return await commit


async def test_a_commit_that_waited_is_decided_by_the_clock_after_its_wait(larder: Instance, settings: Settings) -> None:
    """The hold is over, and that is final."""
    assert await late_commit(larder, settings) == "ReservationExpired"
    [reservation] = await rows(settings, "SELECT status FROM reservations")
    assert reservation == ("expired",)
    cached, loaded = await available(larder, "a")
    assert cached == loaded
    assert b'"available":10' in cached


async def test_mutant_moment_before_the_wait(larder: Instance, settings: Settings) -> None:
    """The test above sees transactions that read the clock before their wait."""
    larder.products._transactions.__class__ = ReadsMomentBeforeLocks
    assert await late_commit(larder, settings) == "committed"


async def test_a_refusal_is_visible_before_it_is_told(larder: Instance, other: Instance, settings: Settings) -> None:
    """What was given back on the way to a refusal is committed and published, on every instance."""
    await larder.stock("a")
    made = await hold(larder, a=4)
    assert b'"available":6' in (await available(other, "a"))[0]
    await pass_an_hour(settings)
    with pytest.raises(InsufficientStock) as refused:
        await larder.products.write(Adjust([Line("a", -10), Line("a", -1)], Reason.SALE))
    assert refused.value.shortages[0].reserved == 4  # no end of any hold could help: nobody looked
    with pytest.raises(ReservationExpired):
        await other.products.reserve(Extend(made.id, 600))
    assert b'"available":10' in (await available(larder, "a"))[0]


async def test_two_lines_of_one_hold_end_at_once(larder: Instance, other: Instance, settings: Settings) -> None:
    """Two requests need units of two products that one ended hold keeps back: the later one notes that nothing is open."""
    await larder.stock("a", "b")
    made = await hold(larder, a=10, b=10)
    await pass_an_hour(settings)
    async with held(settings, "SELECT FROM reservations FOR UPDATE"):
        places = ((larder, "a"), (other, "b"))
        sales = [asyncio.create_task(at.products.write(Adjust([Line(key, -1)], Reason.SALE))) for at, key in places]
        await until_waiting(settings, 2, "FROM reservations")
    await asyncio.gather(*sales)
    found = await larder.products.reservation(made.id)
    assert (found.status, found.is_open, found.version) == (Status.EXPIRED, False, 3)


GIVE_B_BACK: tuple[LiteralString, ...] = (
    "SELECT FROM reservations FOR NO KEY UPDATE",
    "UPDATE products SET reserved = 0 WHERE id = 'b'",
    "UPDATE reservation_lines SET expired = quantity WHERE product_id = 'b'",
    "UPDATE reservations SET version = version + 1, status = 'expired'",
)
"""Closes lines of B as a transaction does that needs units of it."""


async def test_sql_that_deletes_waits_for_who_closes_another_line(larder: Instance, settings: Settings) -> None:
    """A line of a hold is given back while the product of its other line is deleted by hand: the later one notes the end."""
    await larder.stock("a", "b")
    made = await hold(larder, a=1, b=2)
    async with by_hand(settings) as hand, by_hand(settings) as somebody:
        async with somebody.transaction():
            for statement in GIVE_B_BACK:
                await somebody.execute(statement)
            deletion = asyncio.create_task(hand.execute("DELETE FROM products WHERE id = 'a'"))
            await until_waiting(settings, 1, "DELETE FROM products")
        await deletion
    assert not (await larder.products.reservation(made.id)).is_open


async def test_a_replay_names_the_products_of_its_reservation(larder: Instance, settings: Settings) -> None:
    """A request with a key is done once, and what it changed is published again before its answer is repeated."""
    await larder.stock("a")
    made = await hold(larder, a=4)
    await larder.products.reserve(Release(made.id, [Part(0, 1)]), once("k"))
    kept = await rows(settings, "SELECT product_ids FROM idempotency_records WHERE key = 'k'")
    assert kept == [(["a"],)]


async def test_products_that_sql_deletes_close_their_lines(larder: Instance, settings: Settings) -> None:
    """DELETE and TRUNCATE by hand give the units back; a reservation with other products goes on."""
    await larder.stock("a", "b")
    both, one = await hold(larder, a=2, b=1), await hold(larder, a=3)
    async with by_hand(settings) as hand:
        await hand.execute("DELETE FROM products WHERE id = 'a'")
    assert (await larder.products.reservation(one.id)).status is Status.RELEASED
    found = await larder.products.reservation(both.id)
    assert [(line.open, line.released) for line in found.lines] == [(0, 2), (1, 0)]
    assert (found.status, found.version) == (Status.HELD, 2)
    assert (await larder.products.reserve(Commit(both.id))).status is Status.COMMITTED
    last = await hold(larder, b=1)
    async with by_hand(settings) as hand:
        await hand.execute("TRUNCATE products")
    assert (await larder.products.reservation(last.id)).status is Status.RELEASED
    assert await outcome(larder, Commit(last.id)) == "ReservationClosed"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE reservation_lines SET committed = 0, released = 0",
        "UPDATE reservation_lines SET quantity = 9",
        "UPDATE reservation_lines SET expires_at = now()",
        "DELETE FROM reservation_lines",
        "TRUNCATE reservation_lines",
        "UPDATE reservations SET version = 1",
        "DELETE FROM reservations",
        "TRUNCATE reservations",
    ],
)
async def test_reservations_are_not_written_by_hand(larder: Instance, settings: Settings, statement: LiteralString) -> None:
    """Counters only grow, ends only move later, and what is open is not removed."""
    await larder.stock("a")
    made = await hold(larder, a=2)
    await larder.products.reserve(Commit(made.id, [Part(0, 1)]))
    async with by_hand(settings) as hand:
        with pytest.raises(psycopg.errors.CheckViolation, match="through the service alone"):
            await hand.execute(statement)


async def test_the_tidier_gives_back_what_nobody_needs(
    larder: Instance, other: Instance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tidier publishes like any write and leaves out what others hold, however much that is; two at once finish, too."""
    await larder.stock("a", "b")
    first, second, third = await hold(larder, a=2), await hold(larder, a=1, b=1), await hold(larder, 7_200, b=2)
    await pass_an_hour(settings)
    database = open_database(settings.database_url)
    source = ProductSource(database).reservations
    tidiers = [Tidier(at.products, source, at.products._cache._stats, pause_s=1.0, keep_s=86_400.0) for at in (larder, other)]
    counted = await source.held()
    assert (counted.units, counted.over) == (6, 4)
    assert 3_500 < counted.oldest_s < 3_600

    async def tidy_until(left: int) -> None:
        # The one whose turn it is leaves out what the other one is looking at, and comes again.
        async with asyncio.timeout(20):
            while (await source.held()).over > left:
                await asyncio.gather(*(tidier.tidy() for tidier in tidiers))

    async with held(settings, ROWS, ["b"]):
        with monkeypatch.context() as small:
            small.setattr("app.products.tidier.STEP", 1)
            await tidy_until(2)
    assert [(await larder.products.reservation(r.id)).status for r in (first, second)] == [Status.EXPIRED, Status.HELD]
    await tidy_until(0)
    assert (await larder.products.reservation(second.id)).status is Status.EXPIRED
    assert (await larder.products.reservation(third.id)).status is Status.HELD
    assert b'"available":10' in (await available(other, "a"))[0]
    assert await source.held() == HeldUnits(2, 0, 0.0)
    assert await source.forget(age_s=86_400.0, limit=9) == 0
    assert await source.forget(age_s=-1.0, limit=9) == 2
    await database.close()


async def test_the_last_units(larder: Instance, other: Instance, settings: Settings) -> None:
    """A hundred clients of two instances want fifty units: none is held or sold twice, and none is withheld after its end."""
    await larder.stock("a")
    await larder.products.write(set_stock("a", 50))
    chance, refused = random.Random(1), list[Shortage]()
    clients = [_client(chance.choice([larder, other]), chance.randint(1, 3), chance.random(), refused) for _ in range(100)]
    async with asyncio.timeout(60):
        await asyncio.gather(*clients)
    ledger = await rows(settings, "SELECT version, stock_after, reserved_after FROM stock_movements ORDER BY version, line")
    assert all(reserved <= stock for _, stock, reserved in ledger)
    assert max(reserved for _, _, reserved in ledger) > 10
    free = {version: stock - reserved for version, stock, reserved in ledger}
    assert refused
    assert all(free[shortage.version] == shortage.available < shortage.requested for shortage in refused)
    await pass_an_hour(settings)
    [(left,)] = await rows(settings, "SELECT stock FROM products")
    assert 0 < left < 50
    assert (await hold(larder, a=left)).status is Status.HELD


async def _client(at: Instance, units: int, mood: float, refused: list[Shortage]) -> None:
    """Hold some units several times; commit a few, release many, and leave some to their end."""
    for _ in range(3):
        try:
            made = await hold(at, 1, a=units)
        except InsufficientStock as refusal:
            refused += refusal.shortages
            continue
        if mood < 0.7:
            command = Commit(made.id) if mood < 0.1 else Release(made.id)
            assert await outcome(at, command) in {"committed", "released", "expired", "ReservationExpired"}


async def test_long_reservations_share_no_transaction(
    larder: Instance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for which a batch has no room is carried out by itself; short ones stay together."""
    monkeypatch.setattr("app.products.transaction.MANY_LINES", 3)
    monkeypatch.setattr("app.products.transaction.LONG", 1)
    await larder.stock("a", "b")
    for units, transactions in (({"a": 1, "b": 1}, 4), ({"a": 1}, 1)):
        made = [await hold(larder, **units) for _ in range(4)]
        async with held(settings, ROWS, ["a"]):
            commits = [asyncio.create_task(outcome(larder, Commit(reservation.id))) for reservation in made]
            await until_waiting(settings, 1)
        assert await asyncio.gather(*commits) == ["committed"] * 4
        ids = [reservation.id for reservation in made]
        count = "SELECT count(DISTINCT changed_xid) FROM reservations WHERE id = ANY(%(ids)s)"
        assert await rows(settings, count, {"ids": ids}) == [(transactions,)]


async def test_a_product_that_is_held_by_an_ended_reservation_is_deleted(larder: Instance, settings: Settings) -> None:
    """What is over is closed first; what is not over keeps it."""
    await larder.stock("a")
    await hold(larder, a=1)
    kept = await hold(larder, 7_200, a=1)
    await pass_an_hour(settings)
    with pytest.raises(ProductReserved) as refused:
        await larder.products.write(delete("a"))
    assert refused.value.reserved == 1
    await larder.products.reserve(Release(kept.id))
    with pytest.raises(ReservationClosed):
        await larder.products.reserve(Commit(kept.id))
    await larder.products.write(delete("a"))


async def test_with_a_tidier_ends_are_seen(settings: Settings) -> None:
    """A service with the settings as they come shows free units soon after the end, without anybody needing them."""
    tidying = settings.model_copy(update={"reservation_tidy_ms": 20})
    async with instance(tidying) as larder:
        await larder.stock("a")
        await hold(larder, a=4)
        await pass_an_hour(settings)
        async with asyncio.timeout(20):
            while b'"available":10' not in (await available(larder, "a"))[0]:
                await asyncio.sleep(0.01)

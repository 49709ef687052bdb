"""Writes that meet somebody else's locks on a real database: held rows, ids that are being created, keys, tables."""

import asyncio
from collections.abc import Sequence
from typing import LiteralString

import psycopg
import pytest

from app import main
from app.cache.errors import Overloaded
from app.postgres.database import Shares
from app.postgres.errors import DatabaseFailed
from app.products.commands import Adjust, Command, Create, Effect, Upsert
from app.products.decision import Done
from app.products.errors import AlreadyExists, OutcomeUnknown
from app.products.idempotency import NO_ORIGIN, Origin, WriteRequest
from app.products.main_places import MAIN_PLACES
from app.products.product import Draft, Line, Reason
from app.products.service import Products
from app.products.transaction import Patience
from app.settings import Settings
from tests.limits import write_limits
from tests.products.instances import ROWS, Instance, by_hand, deviations, held, instance, once, rows

pytestmark = pytest.mark.usefixtures("larder")


async def _take(larder: Instance, product_id: str, units: int = 1, origin: Origin = NO_ORIGIN) -> Effect:
    return (await larder.products.write(Adjust([Line(product_id, -units)], Reason.SALE), origin))[0]


async def test_creations_of_the_same_ids_at_once_on_two_instances(larder: Instance, other: Instance) -> None:
    """Each id is created once, the other instance is told that it exists: nobody meets a fault, nobody a deadlock."""
    async with asyncio.timeout(20):
        for round_ in range(5):
            ids = [f"r{round_}-{number}" for number in range(20)]
            creations = [(i, larder.products.write(Create(Draft(i, "Mug", 1, 1)))) for i in ids]
            creations += [(i, other.products.write(Create(Draft(i, "Mug", 1, 1)))) for i in reversed(ids)]
            results = await asyncio.gather(*(creation for _, creation in creations), return_exceptions=True)
            failed = [result for result in results if isinstance(result, BaseException)]
            assert {type(error) for error in failed} == {AlreadyExists}
            assert len(failed) == 20
            found = await rows(
                larder.settings, "SELECT count(*) FROM stock_movements WHERE product_id = ANY(%(ids)s)", {"ids": ids}
            )
            assert found == [(20,)]


@pytest.mark.parametrize(("end", "version"), [("COMMIT", None), ("ROLLBACK", 1)])
async def test_a_creation_that_meets_one_that_is_not_finished(
    larder: Instance, settings: Settings, end: LiteralString, version: int | None
) -> None:
    """It waits, and is then decided on what came of the other: no fault, whoever was first."""
    async with by_hand(settings) as connection:
        await connection.execute("BEGIN")
        await connection.execute("INSERT INTO products (id, name, price_cents, stock) VALUES ('a', 'Mug', 1, 1)")
        creation = asyncio.create_task(larder.products.write(Create(Draft("a", "Cup", 1, 2))))
        await _locked(settings)
        await connection.execute(end)
    if version is None:
        with pytest.raises(AlreadyExists):
            await creation
    else:
        assert (await creation)[0].row.version == version
    assert await deviations(settings) == []


@pytest.mark.parametrize("ids", ["abc", "cba", "bca"])
async def test_rows_are_locked_in_the_order_of_their_ids(larder: Instance, settings: Settings, ids: str) -> None:
    """Whatever the order of the lines: who waits for b holds a and not c, so no two requests can wait for each other."""
    await larder.stock(*"abc")
    async with held(settings, ROWS, ["b"]):
        request = asyncio.create_task(_patiently(larder, Adjust([Line(product_id, 1) for product_id in ids], Reason.OTHER)))
        await _locked(settings)
        free = await rows(settings, "SELECT id FROM products ORDER BY id FOR UPDATE SKIP LOCKED")
    assert free == [("c",)]
    assert [effect.row.version for effect in await request] == [2, 2, 2]


@pytest.mark.parametrize("ids", ["abc", "cba", "bca"])
async def test_creations_are_recorded_in_the_order_of_their_ids(larder: Instance, settings: Settings, ids: str) -> None:
    """There is no row to lock yet: who waits for b's first entry has made a's and not c's."""
    creation: LiteralString = "INSERT INTO products (id, name, price_cents) VALUES ('b', 'Mug', 1)"
    async with held(settings, creation), by_hand(settings) as looking:
        request = asyncio.create_task(_patiently(larder, Upsert([Draft(product_id, "Cup", 1, 1) for product_id in ids])))
        await _locked(settings)
        await looking.execute("SET lock_timeout = '50ms'")
        made = {}
        for product_id in "ac":
            await looking.execute("BEGIN")
            entry = "INSERT INTO stock_movements VALUES (%s, 1, 0, 0, 0, 'other')"
            try:
                await looking.execute(entry, (product_id,))
                made[product_id] = False
            except psycopg.errors.LockNotAvailable:
                made[product_id] = True
            await looking.execute("ROLLBACK")
    assert made == {"a": True, "c": False}
    assert [effect.row.version for effect in await request] == [1, 1, 1]


async def test_requests_that_cross_do_not_deadlock(larder: Instance, other: Instance, settings: Settings) -> None:
    """Sixty requests over the same products, each in another order of lines, on two instances: all are served at once."""
    ids = [f"p{number}" for number in range(8)]
    await larder.stock(*ids)
    forwards = [Line(product_id, 1) for product_id in ids]
    calls = []
    for number in range(60):
        who = (larder, other)[number % 2]
        turned = forwards[number % 8 :] + forwards[: number % 8]
        calls.append(who.products.write(Adjust(turned if number % 4 < 2 else turned[::-1], Reason.RECEIPT)))
    async with asyncio.timeout(20):
        await asyncio.gather(*calls)
    assert {row for (row,) in await rows(settings, "SELECT stock FROM products")} == {70}
    assert await deviations(settings) == []


async def test_a_held_row_holds_up_its_product_alone(larder: Instance, settings: Settings) -> None:
    """While a row is locked elsewhere, other products are written; its own requests go on afterwards, together."""
    await larder.stock("held", "free")
    async with held(settings, ROWS, ["held"]):
        waiting = [asyncio.create_task(_take(larder, "held"))]
        await _locked(settings)
        for _ in range(5):
            waiting.append(asyncio.create_task(_take(larder, "held")))
            await _take(larder, "free")
        assert not any(task.done() for task in waiting)
    assert sorted([(await task).row.version for task in waiting]) == [2, 3, 4, 5, 6, 7]
    assert len(await rows(settings, "SELECT DISTINCT created_at FROM stock_movements WHERE product_id = 'held'")) <= 4


async def test_a_request_for_a_held_product_and_a_free_one_keeps_the_free_one_free(
    larder: Instance, settings: Settings
) -> None:
    """It waits for the held row before it takes the other; afterwards both are changed."""
    await larder.stock("a", "b", "c")
    async with held(settings, ROWS, ["b"]):
        order = asyncio.create_task(larder.products.write(Adjust([Line(i, 1) for i in "abc"], Reason.RECEIPT)))
        await _locked(settings)
        for number in range(20):
            assert (await _take(larder, "ac"[number % 2], 0)).row.version == 2 + number // 2
    assert [written.row.version for written in await order] == [12, 2, 12]
    assert await deviations(settings) == []


async def test_what_never_began_is_told_from_what_may_have_happened(larder: Instance, settings: Settings) -> None:
    """Past its deadline a request for a held row is overload, and nothing was changed, now or later."""
    hasty = Products(larder.cache, larder.products._source, larder.products._transactions, write_limits(request_timeout_ms=300))
    await larder.stock("held")
    async with held(settings, ROWS, ["held"]):
        takes = (hasty.write(Adjust([Line("held", -1)], Reason.SALE)) for _ in range(20))
        told = await asyncio.gather(*takes, return_exceptions=True)
    await hasty.aclose()
    unknown = sum(isinstance(answer, OutcomeUnknown) for answer in told)
    assert {type(answer) for answer in told} <= {Overloaded, OutcomeUnknown}
    [[stock]] = await rows(settings, "SELECT stock FROM products")
    assert 10 - unknown <= stock <= 10


async def test_reads_go_on_while_every_row_is_held(settings: Settings) -> None:
    """Writes that wait for rows take no connection of others: what is not cached is still loaded, and finds one at once."""
    few = settings.model_copy(update={"database_connections": 5, "database_acquire_timeout_ms": 30})
    ids = [f"p{number}" for number in range(20)]
    async with instance(few) as larder:
        await larder.stock(*ids)
        async with held(settings, ROWS, ids):
            writes = [asyncio.create_task(_take(larder, product_id)) for product_id in ids]
            for number in range(200):
                assert (await larder.products.get(f"none-{number}")).state.version == 0
            assert not any(task.done() for task in writes)
        assert {(await task).row.version for task in writes} == {2}
    assert await deviations(settings) == []


@pytest.mark.parametrize("connections", [1, 5, 6, 7, 10, 11, 50, 100, 500])
def test_every_part_has_its_connections(settings: Settings, connections: int) -> None:
    """Together they are what the setting says, from five on; writes have some for main transactions and some for held rows."""
    shares = Shares.of(connections)
    assert shares.audit == 1
    assert min(shares.loads, shares.lists) >= 1
    assert shares.audit + shares.loads + shares.lists + shares.writes == max(5, connections)
    limits = main.write_limits(settings.model_copy(update={"database_connections": connections}))
    assert limits.main_places == (1 if shares.writes < MAIN_PLACES + 2 else MAIN_PLACES)
    assert limits.product_places == shares.writes - limits.main_places >= 1


async def _patiently(larder: Instance, command: Command) -> Sequence[Effect]:
    """Do a command in a transaction that waits for rows as long as a scenario lasts."""
    committed = await larder.products._transactions.commit([WriteRequest(command)], Patience(5_000, sorted(command.keys)))
    [decision] = committed.decisions
    assert isinstance(decision, Done)
    return decision.effects


async def _locked(settings: Settings) -> None:
    """Return once somebody waits for a lock."""
    async with asyncio.timeout(5):
        while not await rows(settings, "SELECT FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.005)


_REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$refused$$; END';
CREATE TRIGGER refuse BEFORE INSERT ON products FOR EACH ROW WHEN (NEW.id = 'guilty') EXECUTE FUNCTION refuse();
"""


async def test_a_batch_that_postgresql_refuses_fails_for_the_guilty_alone(larder: Instance, settings: Settings) -> None:
    """Its neighbours in the batch are created all the same."""
    async with by_hand(settings) as connection:
        await connection.execute(_REFUSE)
    ids = ["opener", "left", "guilty", "right"]
    results = await asyncio.gather(
        *(larder.products.write(Create(Draft(product_id, "Mug", 1))) for product_id in ids), return_exceptions=True
    )
    assert [isinstance(result, DatabaseFailed) for result in results] == [False, False, True, False]
    assert {product_id for (product_id,) in await rows(settings, "SELECT id FROM products")} == {"opener", "left", "right"}


LOCKS: dict[str, LiteralString] = {
    "an id that is being created": "INSERT INTO products (id, name, price_cents) VALUES ('met', 'Mug', 1)",
    "an entry of the ledger": "INSERT INTO stock_movements VALUES ('met', 1, 0, 0, 0, 'other')",
    "a kept answer": "INSERT INTO idempotency_records (caller, key, request_hash, status, body, product_ids)"
    " VALUES ('', 'k', '', 200, '', '{}')",
    "an idempotency key": "SELECT pg_advisory_xact_lock(hashtextextended(chr(31) || 'k', 0))",
}


@pytest.mark.parametrize("name", LOCKS)
async def test_who_meets_a_lock_delays_no_neighbour(larder: Instance, settings: Settings, name: str) -> None:
    """Whatever it is that somebody holds: those who do not need it are served meanwhile, and who does is served afterwards."""
    await larder.stock("free")
    async with held(settings, LOCKS[name]):
        met = asyncio.create_task(larder.products.write(Create(Draft("met", "Cup", 1, 1)), once("k")))
        async with asyncio.timeout(3):
            for number in range(10):
                creating = larder.products.write(Create(Draft(f"new{number}", "Cup", 1)))
                taken, [created] = await asyncio.gather(_take(larder, "free"), creating)
                assert (taken.row.version, created.row.version) == (2 + number, 1)
        assert not met.done()
    assert (await met)[0].row.version == 1
    assert await deviations(settings) == []


@pytest.mark.parametrize("table", ["products", "stock_movements"])
async def test_a_table_that_is_locked_holds_everybody_up_and_nobody_for_good(
    larder: Instance, settings: Settings, table: LiteralString
) -> None:
    """Every write waits, apart; all are done when it is free, each once, and the queue is empty."""
    ids = [f"p{number}" for number in range(30)]
    await larder.stock(*ids)
    async with held(settings, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"):
        writes = [asyncio.create_task(_take(larder, product_id)) for product_id in ids for _ in range(2)]
        await _stuck(larder, len(writes))
        assert not any(task.done() for task in writes)
    assert sorted([(await task).row.version for task in writes]) == [2] * 30 + [3] * 30
    assert (await _take(larder, "p0")).row.version == 4
    assert larder.products._queue._queues == {}


async def test_answers_that_are_being_removed_hold_up_nobody(larder: Instance, settings: Settings) -> None:
    """Housekeeping deletes a thousand answers in a transaction that takes its time; writes with other keys go on."""
    await larder.stock("a")
    await _take(larder, "a", origin=once("old"))
    async with held(settings, "DELETE FROM idempotency_records"), asyncio.timeout(3):
        assert (await _take(larder, "a", origin=once("new"))).row.version == 3


async def _stuck(larder: Instance, requests: int) -> None:
    """Return once so many requests are apart, and products among them were waited for in vain."""
    queue = larder.products._queue
    async with asyncio.timeout(5):
        while queue._waiting_in_queues < requests - len(queue._attempts) or not any(p.stuck for p in queue._queues.values()):
            await asyncio.sleep(0.005)

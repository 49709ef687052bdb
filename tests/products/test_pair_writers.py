"""Writers of a database whose buckets move: what was begun before is finished, and nothing else is begun."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, LiteralString, cast

import psycopg
import pytest

from app.buckets import moved_to
from app.cache.errors import SourceUnavailable
from app.cache.stats import Stats
from app.postgres.database import Database, Session
from app.postgres.errors import DatabaseUnavailable
from app.products.acceptance import Acceptance, Accepted
from app.products.accepted import AcceptedStats, AcceptedWrite, Queued
from app.products.commands import Adjust, set_stock
from app.products.decision import Decision, Denied, Done, Postponed, Repeated
from app.products.errors import BucketMoving, NotHere, Refused, SeveralPairs
from app.products.idempotency import WriteRequest
from app.products.pair import Pair
from app.products.pair_move import CannotMove
from app.products.pair_queries import READ
from app.products.pair_watch import PairWatch
from app.products.product import Line, Reason
from app.products.reservation import Part, RequestedLine
from app.products.reservation_commands import Commit, Release, ReservationCommand, Reserve
from app.products.transactions import ProductTransactions
from tests.harness.servers import execute
from tests.products.instances import once
from tests.products.two import CREATE, HOLD, LEAVING, RESERVE, STAYING, Two, by_hand

_ACCEPTED = """
INSERT INTO accepted_writes (caller, key, request_hash, product_ids, operation, target, conditions, body)
VALUES ('till', %s, '', %s, 'o', 't', '[]', '')
"""


_LOCK = "SELECT FROM products WHERE id = %s FOR NO KEY UPDATE"


class _Forgetful(Pair):
    """A process that takes note of an older reading as soon as a write has read the buckets."""

    def note_reading(self, ranges: str, moving: str, asked_at: float) -> None:
        """Note nothing."""


async def test_a_writer_reads_the_buckets_behind_its_locks(two: Two) -> None:
    """A request that passed every check before the move began is decided by what the database says now."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    transactions = ProductTransactions(two.databases["a"], pair=_Forgetful("0-511"))

    async def refusal() -> type[Refused] | None:
        [decision] = (await transactions.commit([WriteRequest(set_stock(LEAVING, 9))])).decisions
        return type(decision.refusal) if isinstance(decision, Denied) else None

    assert await refusal() is None
    for held, moving, expected in (
        ("0-511", "500", BucketMoving),
        ("0-499,501-511", "500", BucketMoving),
        ("0-3", "", NotHere),
    ):
        await by_hand(two.urls["a"], "UPDATE pair_buckets SET held = %s, moving = %s", held, moving)
        assert await refusal() is expected
    await by_hand(two.urls["a"], "DELETE FROM pair_buckets")
    assert await refusal() is NotHere
    assert (await two.rows("a"))[LEAVING][0] == 9


async def test_what_was_accepted_before_is_decided_and_not_refused(two: Two) -> None:
    """While the bucket is here, it is carried out. Afterwards it would wait: a refusal would be kept as its answer."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)

    async def decode(write: AcceptedWrite) -> WriteRequest:
        return WriteRequest(set_stock(LEAVING, int(write.key)), once(write.key))

    transactions = ProductTransactions(two.databases["a"], pair=Pair("0-511"), decode=decode)
    for key, held, expected in (("1", "0-511", Done), ("2", "0-499,501-511", Postponed)):
        await by_hand(two.urls["a"], _ACCEPTED, key, [LEAVING])
        await by_hand(two.urls["a"], "UPDATE pair_buckets SET held = %s, moving = '500'", held)
        assert [type(decision) for decision in (await transactions.apply(decode)).accepted_decisions] == [expected]
    assert await execute(two.urls["a"], "SELECT key FROM accepted_writes") == [("2",)]
    assert await execute(two.urls["a"], "SELECT key FROM idempotency_records") == [("1",)]
    assert (await two.rows("a"))[LEAVING][0] == 1


async def test_a_product_that_was_not_recorded_is_as_any_other(two: Two) -> None:
    """The move does not wait for it, so it is not decided for a bucket that moves."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)

    async def decode(write: AcceptedWrite) -> WriteRequest:
        return WriteRequest(set_stock(LEAVING, 1), once(write.key))

    transactions = ProductTransactions(two.databases["a"], pair=Pair("0-511"), decode=decode)
    await by_hand(two.urls["a"], _ACCEPTED, "k", [STAYING])
    await by_hand(two.urls["a"], "UPDATE pair_buckets SET moving = '500'")
    assert [type(decision) for decision in (await transactions.apply(decode)).accepted_decisions] == [Postponed]
    assert (await two.rows("a"))[LEAVING][0] == 7


async def test_reservations_over_two_buckets(two: Two) -> None:
    """One that is open keeps its buckets together, also by a line that is closed. One that has ended can be released again."""
    for product_id in (LEAVING, STAYING):
        await by_hand(two.urls["a"], CREATE, product_id, 7)
    transactions = ProductTransactions(two.databases["a"], pair=Pair("0-511"))

    async def done(command: ReservationCommand) -> Decision:
        [decision] = (await transactions.commit([WriteRequest(command)])).decisions
        return decision

    reserve = Reserve([RequestedLine(STAYING, 2), RequestedLine(LEAVING, 2)], 600)
    for command in (reserve, Commit(reserve.id, [Part(1, 2)])):
        assert isinstance(await done(command), Done)
    with pytest.raises(CannotMove, match=f"units of {LEAVING} are held, or were"):
        await two.move("500")
    assert isinstance(await done(Release(reserve.id)), Done)
    assert await two.move("500") == 1
    again = await done(Release(reserve.id))
    assert isinstance(again, Done), again
    assert isinstance(await done(Reserve([RequestedLine(STAYING, 1)], 600, replaces=reserve.id)), Done)
    refused = await done(Reserve([RequestedLine(STAYING, 1)], 600, replaces=moved_to(500, "0" * 32)))
    assert isinstance(refused, Denied)
    assert isinstance(refused.refusal, SeveralPairs)


async def test_a_retry_over_two_buckets_gets_its_answer(two: Two) -> None:
    """One of them has moved since. A new request over both is refused, and the refusal is not kept."""
    for product_id in (LEAVING, STAYING):
        await by_hand(two.urls["a"], CREATE, product_id, 7)
    transactions = ProductTransactions(two.databases["a"], pair=Pair("0-511"))

    async def decided(key: str) -> Decision:
        sale = Adjust([Line(LEAVING, -1), Line(STAYING, -1)], Reason.SALE)
        [decision] = (await transactions.commit([WriteRequest(sale, once(key))])).decisions
        return decision

    assert isinstance(await decided("k"), Done)
    await two.move("500")
    assert isinstance(await decided("k"), Repeated)
    refused = await decided("other")
    assert isinstance(refused, Denied)
    assert isinstance(refused.refusal, SeveralPairs)


async def test_an_instance_begins_by_reading_the_buckets(two: Two) -> None:
    """Until then it refuses everything; afterwards it goes by the database, whatever its settings say."""
    pair = Pair("0-600")
    watch = PairWatch(pair, two.databases["a"], Stats())
    with pytest.raises(SourceUnavailable):
        pair.check_fresh()
    await watch.renew()
    pair.check_fresh()
    assert (pair.configured, pair.buckets.ranges) == ("0-600", "0-511")


async def test_a_failing_watch_is_logged_once_and_goes_on(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged, and only a defect is counted, each time. After a success the next failure is logged again."""
    database, stats, now = _Failing(two.databases["a"]), Stats(), 0.0
    pair = Pair("0-511", lambda: now)
    watch = PairWatch(pair, cast("Database", database), stats, lambda: now)
    with caplog.at_level(logging.INFO, logger="app.products.pair_watch"):
        outage, defect = DatabaseUnavailable("it is down"), ValueError("x")
        for database.fault in (outage, outage, None, defect, defect):
            await watch.renew()
    text = "the buckets of this pair cannot be read, requests are refused when the last reading is 2 s old"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"{text}: it is down"),
        ("ERROR", f"{text}: x"),
    ]
    assert stats.unexpected == 2
    pair.check_fresh()
    now = 2.1
    with pytest.raises(SourceUnavailable):
        pair.check_fresh()
    database.fault = None
    await watch.renew()
    pair.check_fresh()


async def test_an_empty_table_of_buckets_is_logged(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    """It says nothing about the buckets, so requests are soon refused."""
    await by_hand(two.urls["a"], "DELETE FROM pair_buckets")
    watch = PairWatch(Pair("0-511"), two.databases["a"], Stats())
    with caplog.at_level(logging.INFO, logger="app.products.pair_watch"):
        await watch.renew()
    assert "the table pair_buckets is empty" in caplog.text


async def test_nothing_is_accepted_for_a_bucket_that_moves(two: Two) -> None:
    """The process does not know it yet; it reads the buckets in the transaction that accepts."""
    acceptance = Acceptance(
        two.databases["a"], lambda _epoch, _asked_at: None, AcceptedStats(), queue_limit=10, pair=_Forgetful("0-511")
    )

    async def accept(key: str) -> Accepted:
        return await acceptance.accept(AcceptedWrite("", key, b"", [LEAVING], "o", "t", "[]", b"", None))

    assert await accept("1") == Queued()
    for held, moving, expected in (("0-511", "500", BucketMoving), ("0-499", "500", BucketMoving), ("0-3", "", NotHere)):
        await by_hand(two.urls["a"], "UPDATE pair_buckets SET held = %s, moving = %s", held, moving)
        assert await accept("1") == Queued()
        with pytest.raises(expected):
            await accept("2")
    await acceptance.aclose()
    assert await execute(two.urls["a"], "SELECT key FROM accepted_writes") == [("1",)]


class _Failing:
    """The connection for keys, whose statements fail with ``fault`` while there is one."""

    def __init__(self, database: Database) -> None:
        self._pool = database.keys
        self.keys = self
        self.fault: Exception | None = None

    async def rows(self, statement: LiteralString) -> Any:
        if self.fault is not None:
            raise self.fault
        return await self._pool.rows(statement)


@dataclass
class _Gate:
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


class _Gated:
    """A session that sends statement after statement, and stops when the buckets are read, until the gate is opened."""

    def __init__(self, session: Session, gate: _Gate) -> None:
        self._session = session
        self._gate = gate

    async def rows(self, statement: Any, parameters: Any = None) -> Any:
        rows = await self._session.rows(statement, parameters)
        if statement is READ:
            self._gate.reached.set()
            await self._gate.open.wait()
        return rows

    async def pipeline(self, *statements: Any) -> Any:
        return [await self.rows(*statement) for statement in statements]

    async def commit(self, *last: Any) -> Any:
        return await self._session.commit(*last)


class _GatedDatabase:
    """A database whose writes stop when they have read the buckets."""

    def __init__(self, database: Database, gate: _Gate) -> None:
        self.lists = database.lists
        self.writes = self
        self._database = database
        self._gate = gate

    async def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        async with self._database.writes.session() as session:
            return await work(_Gated(session, self._gate))


@pytest.mark.parametrize("case", ["write", "acceptance"])
async def test_a_move_waits_for_who_has_read_the_buckets_before(two: Two, case: str) -> None:
    """It is stopped between its reading and its COMMIT. It has the lock for which the move waits, and finishes."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    gate, pair = _Gate(), Pair("0-511")
    database: Any = _GatedDatabase(two.databases["a"], gate)
    acceptance = Acceptance(database, lambda _epoch, _asked_at: None, AcceptedStats(), queue_limit=10, pair=pair)
    begun: asyncio.Task[Any]
    if case == "write":
        transactions = ProductTransactions(database, pair=pair)
        begun = asyncio.create_task(transactions.commit([WriteRequest(set_stock(LEAVING, 4))]))
    else:
        begun = asyncio.create_task(acceptance.accept(AcceptedWrite("", "k", b"", [LEAVING], "o", "t", "[]", b"", None)))
    async with asyncio.timeout(20):
        await gate.reached.wait()
    moving = asyncio.create_task(two.move("500", waiting_s=1))
    await two.until_told("writes are refused", moving)
    await two.until_asked_again()
    assert len(two.said) == 1
    gate.open.set()
    done = await begun
    if case == "write":
        assert await moving == 1
        assert (await two.rows("b"))[LEAVING][0] == 4
    else:
        assert done == Queued()
        with pytest.raises(CannotMove, match=f"an accepted write for {LEAVING} waits"):
            await moving
        assert await two.held() == [("0-511", ""), ("512-1023", "")]
    await acceptance.aclose()


@pytest.mark.parametrize("case", ["creation", "hold"])
async def test_a_move_waits_for_what_was_begun_before(two: Two, case: str) -> None:
    """A product that is being created moves, too; one of which units are being held does not."""
    if case == "hold":
        await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    async with await psycopg.AsyncConnection.connect(two.urls["a"]) as writer:
        await writer.execute(_LOCK, [LEAVING])  # there may be no such row: the lock of the table is what counts
        moving = asyncio.create_task(two.move("500"))
        await two.until_told("writes are refused", moving)
        await two.until_asked_again()
        assert len(two.said) == 1
        assert (await two.held())[0] == ("0-511", "500")
        if case == "creation":
            await writer.execute(CREATE, [LEAVING, 4])
        else:
            await writer.execute("UPDATE products SET reserved = 2 WHERE id = %s", [LEAVING])
            await writer.execute(RESERVE, ["0" * 32, "held", None])
            await writer.execute(HOLD, ["0" * 32, LEAVING, 0])
        await writer.commit()
        if case == "creation":
            assert await moving == 1
            assert (await two.rows("b"))[LEAVING][0] == 4
        else:
            with pytest.raises(CannotMove, match=f"units of {LEAVING} are held"):
                await moving
            assert await two.held() == [("0-511", ""), ("512-1023", "")]


async def test_a_move_holds_up_no_writer(two: Two) -> None:
    """While it waits for an earlier transaction, writers of other products get their locks at once."""
    for product_id in (LEAVING, STAYING):
        await by_hand(two.urls["a"], CREATE, product_id, 7)
    async with await psycopg.AsyncConnection.connect(two.urls["a"]) as writer:
        await writer.execute(_LOCK, [LEAVING])
        moving = asyncio.create_task(two.move("500"))
        await two.until_told("writes are refused", moving)
        await two.until_asked_again()
        await by_hand(two.urls["a"], "SET lock_timeout = '1s'")
        await by_hand(two.urls["a"], "UPDATE products SET stock = 6 WHERE id = %s", STAYING)
        assert not moving.done()
    assert await moving == 1


async def test_products_leave_when_nobody_relies_on_an_earlier_reading(two: Two) -> None:
    """Between the end of reads and the tombstones lies the time for which a process goes on with what it has read."""
    await by_hand(two.urls["a"], CREATE, LEAVING, 7)
    clock = asyncio.get_running_loop().time
    two.stops_at = "reads are refused"
    moving = asyncio.create_task(two.move("500", good_for_s=0.4))
    await two.until_told("reads are refused", moving)
    began = clock()
    two.go.set()
    assert await two.rows("a") == {LEAVING: (7, 1, True)}
    await two.until_told("have left", moving)
    assert clock() - began >= 0.4
    assert await moving == 1

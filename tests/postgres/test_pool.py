"""Shares of connections on a real PostgreSQL: what bounds them, and what becomes of a connection that failed."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import psycopg
import pytest

from app.postgres.connection import Connection
from app.postgres.database import Database
from app.postgres.errors import (
    CommitUnknown,
    ConnectionLost,
    DatabaseFailed,
    DatabaseOverloaded,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    DataRefused,
    TransactionConflict,
)
from app.postgres.pool import Pool
from app.postgres.session import Session
from tests.harness.script import PATIENCE_S, Gate
from tests.limits import open_database

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url, connections=5, acquire_timeout_ms=100)
    yield database
    await database.close()


async def _pids(database: Database) -> list[Any]:
    shares = (database.audit, database.loads, database.lists, database.writes)
    return [await share.rows(PID) for share in shares]


async def test_a_refused_connection_fails_at_once() -> None:
    """Nobody waits for a server that says no; the reason is told."""
    database = open_database("postgresql://larder@127.0.0.1:1/larder", acquire_timeout_ms=60_000)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(DatabaseUnavailable, match="refused"):
            await database.loads.rows("SELECT 1")
    await database.close()


async def test_a_failing_statement_costs_no_connection(database: Database) -> None:
    """A table is missing, a number is divided by zero: the same connections go on, prepared statements and all."""
    before = await _pids(database)
    for _ in range(20):
        with pytest.raises(DatabaseUnsuitable):
            await database.loads.rows("SELECT FROM missing")
        with pytest.raises(DatabaseFailed):
            await database.writes.rows("SELECT 1 / 0")
    assert await _pids(database) == before


async def test_a_failing_transaction_costs_no_connection(database: Database) -> None:
    """Whichever statement of it fails: those after it were skipped, and are right the next time."""
    [[pid]] = await database.writes.rows(PID)
    chance = random.Random(5)
    for number in range(60):
        bad = chance.randrange(8)
        statements = [(f"SELECT 1 / %(n)s::integer + {place}", {"n": int(place != bad)}) for place in range(4)]
        asked = [(cast("Any", text), parameters) for text, parameters in statements]

        async def work(session: Session, asked: list[Any] = asked) -> int:
            await session.pipeline(("BEGIN", None), *asked)
            [[found]] = await session.rows(PID)
            await session.commit((PID, None))
            return int(found)

        if bad < len(statements):
            with pytest.raises(DatabaseFailed, match="division by zero"):
                await database.writes.run(work)
        else:
            assert await database.writes.run(work) == pid, number
    left = await database.loads.rows("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
    assert left == [(0,)]


async def test_lost_connections_cost_their_share_alone(database: Database, database_url: str) -> None:
    """The server ends the connections of two shares: their next statements find new ones, the others keep theirs."""
    audit, loads, lists, writes = await _pids(database)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
        for [[pid]] in (loads, writes):
            await hand.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    after = await _pids(database)
    assert [after[0], after[2]] == [audit, lists]
    assert after[1] != loads
    assert after[3] != writes


async def test_a_connection_that_is_lost_in_use(database: Database, database_url: str) -> None:
    """The idle ones of its share are closed with it, and what it was used for is done again on a new one."""
    asked: list[int] = []
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:

        async def work(session: Session) -> int:
            [[pid]] = await session.rows(PID)
            asked.append(pid)
            if len(asked) == 1:
                await hand.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            [[again]] = await session.rows(PID)
            return int(again)

        async with database.writes.session() as other:
            [[idle]] = await other.rows(PID)
            assert await database.writes.run(work) == asked[1] != asked[0]
        assert idle not in [pid for [[pid]] in await _pids(database)]


async def test_a_full_share_takes_nothing_from_the_others(database: Database) -> None:
    """Who waits in vain is told in time, who would be one too many at once; loads, the audit and writes go on."""
    gate = Gate()

    async def hold(session: Session) -> None:
        await session.rows("SELECT 1")
        await gate.enter()

    holder = asyncio.create_task(database.lists.run(hold))
    await gate.arrival()
    waiting = [asyncio.create_task(database.lists.rows("SELECT 1")) for _ in range(50)]
    await asyncio.sleep(0)
    with pytest.raises(DatabaseOverloaded, match="50 requests wait"):
        await database.lists.rows("SELECT 1")
    for share in (database.loads, database.audit, database.writes):
        assert await share.rows("SELECT 1") == [(1,)]
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in told} == {DatabaseOverloaded}
    gate.open()
    await holder
    assert await database.lists.rows("SELECT 1") == [(1,)]


async def test_who_leaves_takes_the_connection_along(database: Database) -> None:
    """Its statement may be under way: nobody else reads its answer, and the place is free again."""
    [[pid]] = await database.lists.rows(PID)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await database.lists.rows("SELECT pg_sleep(5)")
    [[after]] = await database.lists.rows(PID)
    assert after != pid


async def test_connections_in_use_when_all_are_given_up(database: Database) -> None:
    """They do what they were taken for, and are closed then."""
    async with database.writes.session() as session:
        [[pid]] = await session.rows(PID)
        database.abandon()
        assert await session.rows(PID) == [(pid,)]
    assert session._connection.closed
    assert await database.writes.rows(PID) != [(pid,)]


class Broken:
    """A connection that raises what no driver should, as uvloop does on a socket that was reset."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[None]:
        yield

    async def execute(self, *_: object) -> NoReturn:
        raise self._error

    def fileno(self) -> int:
        return -1


ODD = [RuntimeError("the handler is closed"), AttributeError("x"), ValueError(), OSError("reset"), AssertionError()]


@pytest.mark.parametrize("error", ODD)
async def test_whatever_the_driver_raises_is_a_lost_connection(error: Exception) -> None:
    """It says nothing of the server; after COMMIT was sent, nothing of the transaction's end either."""
    session = Session(cast("Connection", Broken(error)), 1.0)
    for failing in (session.rows("SELECT 1"), session.pipeline(("SELECT 1", None))):
        with pytest.raises(ConnectionLost):
            await failing
    with pytest.raises(CommitUnknown):
        await session.commit()


@pytest.mark.parametrize("error", [psycopg.ProgrammingError("no SQLSTATE"), psycopg.errors.QueryCanceled(), psycopg.Error("x")])
async def test_a_commit_that_the_server_did_not_refuse_may_have_happened(error: Exception) -> None:
    """Only a refusal with an SQLSTATE of the transaction's own says that it was rolled back."""
    with pytest.raises(CommitUnknown):
        await Session(cast("Connection", Broken(error)), 1.0).commit()


_PIDS = (PID, None)


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1 / 0", DataRefused),
        ("SELECT larder_require(false, 'no')", TransactionConflict),
        ("SELECT 1", None),
        ("SELECT pg_sleep(10)", DatabaseOverloaded),
        ("SELECT larder_epoch('products', 0)", DatabaseUnsuitable),
        ("SELECT pg_terminate_backend(pg_backend_pid())", CommitUnknown),
    ],
)
async def test_statements_before_commit(database: Database, statement: str, error: type[Exception] | None) -> None:
    """COMMIT is skipped after an error that the server reported, which is definite and costs no connection.

    The end of the connection is not definite, although the statements before COMMIT may have been the reason.
    """
    changes = "INSERT INTO products (id, name, price_cents) VALUES ('a', 'Mug', 1) RETURNING id"
    before = await database.writes.rows(PID)
    async with database.writes.session() as session:
        await session.pipeline(("BEGIN", None), ("SET LOCAL statement_timeout = 200", None))
        if error is None:
            assert (await session.commit((changes, None), (cast("Any", statement), None), _PIDS)) == [[("a",)], [(1,)], before]
        else:
            with pytest.raises(error) as failure:
                await session.commit((changes, None), (cast("Any", statement), None), _PIDS)
            assert type(failure.value) is error
            assert not session.in_transaction
    assert await database.loads.rows("SELECT id FROM products") == ([("a",)] if error is None else [])
    assert (await database.writes.rows(PID) == before) == (error is not CommitUnknown)


@pytest.mark.guarantee("G2")
async def test_deadline_of_a_server_that_hangs_before_commit(database_url: str) -> None:
    """What was sent may still be carried out, and was."""
    connection = await Connection.connect(database_url, autocommit=True)
    session = Session(connection, 0.2)
    await session.pipeline(("BEGIN", None))
    changes = "INSERT INTO products (id, name, price_cents) VALUES ('a', 'Mug', 1)"
    with pytest.raises(CommitUnknown):
        await session.commit((changes, None), ("SELECT pg_sleep(0.6)", None))
    await connection.close()
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other, asyncio.timeout(PATIENCE_S):
        while await (await other.execute("SELECT id FROM products")).fetchall() != [("a",)]:
            await asyncio.sleep(0.02)


async def test_a_share_survives_whatever_opening_raises() -> None:
    """The place is given back: the next caller tries again."""
    errors: list[Exception] = [ConnectionLost("x"), RuntimeError("x")]

    async def connect() -> Connection:
        raise errors.pop()

    pool = Pool("test", connect, size=1, waiting_limit=1, acquire_timeout_s=0.1, deadline_s=1.0)
    with pytest.raises(RuntimeError):
        await pool.rows("SELECT 1")
    errors.append(DatabaseFailed("x"))
    with pytest.raises(DatabaseFailed):
        await pool.rows("SELECT 1")


async def test_an_old_connection_is_replaced_when_its_successor_is_ready(database_url: str) -> None:
    """No caller waits for the new connection, which comes beside the old one; while none can be had, the old one stays."""
    gate = Gate()
    refused = False
    opened: list[Connection] = []

    async def connect() -> Connection:
        if opened:
            await gate.enter()
            if refused:
                raise ConnectionLost("refused")
        opened.append(await Connection.connect(database_url, autocommit=True))
        return opened[-1]

    pool = Pool("aged", connect, size=1, waiting_limit=5, acquire_timeout_s=PATIENCE_S, deadline_s=PATIENCE_S, max_age_s=0.05)
    [[old_pid]] = await pool.rows(PID)
    await asyncio.sleep(0.06)
    assert await pool.rows(PID) == [(old_pid,)]
    await gate.arrival()
    assert await pool.rows(PID) == [(old_pid,)], "the successor is not ready yet"
    gate.open()
    async with asyncio.timeout(PATIENCE_S):
        while await pool.rows(PID) == [(old_pid,)]:
            await asyncio.sleep(0.01)
    assert opened[0].closed
    refused = True
    [[young]] = await pool.rows(PID)
    await asyncio.sleep(0.06)
    for _ in range(3):
        assert await pool.rows(PID) == [(young,)]
    await pool.close()


async def test_bytes_arrive_as_they_are(database: Database) -> None:
    """In a list and alone, on a connection that keeps its dumpers: the driver's own depend on a setting of the connection."""
    given = [b"\x00\\'\"\xff", b"", bytes(range(256))]
    async with database.lists.session() as session:
        for kind in (bytes, bytearray, memoryview, bytes):
            sent = [kind(one) for one in given]
            [found] = await session.rows("SELECT %(many)s::bytea[], %(one)s::bytea", {"many": sent, "one": sent[0]})
            assert found == (given, given[0])

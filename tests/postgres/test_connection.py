"""A connection to a real PostgreSQL: what it keeps from one round trip to the next, and what it must not keep."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int8Dumper

from app.postgres.connection import Connection
from app.postgres.pipeline import round_trip
from tests.harness.proxy import HOST, Proxy, Target
from tests.harness.script import PATIENCE_S

PID = "SELECT pg_backend_pid()"
END = "SELECT pg_terminate_backend(%(pid)s::int, 5000)"
STATE = "SELECT state FROM pg_stat_activity WHERE pid = %(pid)s::int"
TYPE = "SELECT pg_typeof(%(n)s)::text"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await Connection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    async with await Connection.connect(database_url, autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def through_proxy(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Return a proxy in front of the server, and its URL."""
    found = conninfo_to_dict(url)
    host, port = str(found["host"]), int(found.get("port") or 5432)
    proxy = Proxy(Target(Path(host, f".s.PGSQL.{port}")) if host.startswith("/") else Target(host=host, port=port))
    await proxy.open()
    yield proxy, make_conninfo(url, host=HOST, port=proxy.port)
    await proxy.aclose()


async def _row(connection: Connection, statement: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
    [result] = await round_trip(connection, [(statement, parameters)])
    [row] = result.rows
    return row


async def test_values_are_written_as_was_last_said(connection: Connection) -> None:
    """Also those of a type that was written before, as a new connection's first statements do."""
    assert await _row(connection, TYPE, {"n": 1}) == ("smallint",)
    connection.write_with((int, Int8Dumper))
    assert await _row(connection, TYPE, {"n": 1}) == ("bigint",)


async def test_no_result_is_kept(connection: Connection) -> None:
    """It may be large, and the connection may rest for long. The same holds if a result cannot be read."""
    await _row(connection, "SELECT repeat('x', 1000)")
    assert connection.transformer.pgresult is None
    with pytest.raises(psycopg.DataError):
        await _row(connection, "SELECT 'infinity'::timestamptz")
    assert connection.transformer.pgresult is None


async def test_moments_are_in_utc(connection: Connection) -> None:
    """Whatever time zone the session had when the first was read, and has now."""
    for zone in ("Asia/Kolkata", "UTC", "America/New_York"):
        await round_trip(connection, [(f"SET TimeZone = '{zone}'", None)])
        [moment] = await _row(connection, "SELECT '2026-06-01 12:00+00'::timestamptz")
        assert moment == datetime(2026, 6, 1, 12, tzinfo=UTC)
        assert moment.utcoffset() == UTC.utcoffset(None)


async def test_the_driver_may_wait_in_between(connection: Connection) -> None:
    """Its cursors register the socket themselves, and remove what they find registered."""
    async with asyncio.timeout(PATIENCE_S):
        for number in range(3):
            assert await _row(connection, "SELECT %(n)s::int", {"n": number}) == (number,)
            assert await (await connection.execute("SELECT 5")).fetchone() == (5,)


async def test_an_answer_in_many_pieces(connection: Connection) -> None:
    """It is waited for until it is complete."""
    async with asyncio.timeout(PATIENCE_S):
        found = await round_trip(
            connection, [("SELECT repeat('x', 100000), pg_sleep(0.001) FROM generate_series(1, 50)", None)] * 2
        )
    assert [len(result.rows) for result in found] == [50, 50]


class Counted(Connection):
    """Counts how often the event loop reports that there is something to read."""

    reports = 0

    def _read(self) -> None:
        self.reports += 1
        super()._read()


async def test_the_end_of_a_connection_at_rest_is_reported_once(database_url: str, other: Connection) -> None:
    """Nobody listens, and the event loop would report it again and again until the connection is closed."""
    async with await Counted.connect(database_url, autocommit=True) as connection:
        (pid,) = await _row(connection, PID)
        await _row(other, END, {"pid": pid})
        before = connection.reports
        await _row(other, "SELECT pg_sleep(0.2)")
        assert connection.reports <= before + 1
        with pytest.raises(psycopg.OperationalError):
            await _row(connection, PID)


async def test_who_waits_is_told_that_the_connection_was_closed(connection: Connection) -> None:
    """At once, although no answer comes."""
    await _row(connection, PID)
    waiting = asyncio.create_task(_row(connection, "SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    connection.finish()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await waiting


async def test_who_leaves_has_the_server_stop(connection: Connection, other: Connection) -> None:
    """The statement is no longer carried out when the wait has ended."""
    (pid,) = await _row(connection, PID)
    waiting = asyncio.create_task(_row(connection, "SELECT pg_sleep(60)"))
    async with asyncio.timeout(PATIENCE_S):
        while await _row(other, STATE, {"pid": pid}) != ("active",):
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await _row(other, STATE, {"pid": pid}) == ("idle",)


async def test_a_reset_is_an_error_at_once(database_url: str) -> None:
    """Uvloop reports it once, and watches the socket no longer."""
    async with through_proxy(database_url) as (proxy, url), await Connection.connect(url, autocommit=True) as connection:
        await _row(connection, PID)
        waiting = asyncio.create_task(_row(connection, "SELECT pg_sleep(60)"))
        await asyncio.sleep(0)
        proxy.reset()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(psycopg.OperationalError):
                await waiting


async def _finish(connection: Connection) -> None:
    connection.finish()


async def _lose(connection: Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        await _row(connection, "SELECT pg_terminate_backend(pg_backend_pid())")


async def _lose_while_sending(connection: Connection) -> None:
    """Something is written to a connection that the other side has left."""
    with socket.socket(fileno=connection.fileno()) as end:
        end.shutdown(socket.SHUT_RDWR)
        end.detach()
    with pytest.raises(psycopg.OperationalError):
        await _row(connection, "SELECT %(text)s::text", {"text": "x" * 1_000_000})


@pytest.mark.parametrize("end", [Connection.close, _finish, _lose, _lose_while_sending])
async def test_the_number_of_a_closed_socket_is_free(connection: Connection, end: Callable[[Connection], Any]) -> None:
    """The next socket gets it, and the event loop reports what happens to that one."""
    await _row(connection, PID)
    number = connection.fileno()
    arrived = asyncio.Event()
    looking = asyncio.create_task(_next_socket(connection, arrived.set))
    await asyncio.sleep(0)
    await end(connection)
    ours, theirs = await looking
    assert ours.fileno() == number
    with ours, theirs:
        theirs.send(b"x")
        async with asyncio.timeout(PATIENCE_S):
            await arrived.wait()
        asyncio.get_running_loop().remove_reader(ours)


async def _next_socket(connection: Connection, report: Callable[[], Any]) -> tuple[socket.socket, socket.socket]:
    """Open a pair of sockets as soon as the connection has closed its own, and have the first one's data reported."""
    while not connection.closed:
        await asyncio.sleep(0)
    ours, theirs = socket.socketpair()
    asyncio.get_running_loop().add_reader(ours, report)
    return ours, theirs

"""A round trip of several statements on a real PostgreSQL: how it is sent, and what becomes of it when a statement fails."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.postgres.connection import Connection
from app.postgres.errors import DatabaseFailed
from app.postgres.pipeline import MOST_PREPARED, Statement, round_trip
from app.postgres.session import Session
from tests.harness.proxy import HOST, Proxy, Target

LARGE = "x" * 8_000_000
"""More than the sockets' buffers hold."""


class Packets:
    """Counts what a client sends over all connections of a proxy."""

    def __init__(self) -> None:
        self.sent_count = 0

    def sent(self, _data: bytes) -> bool:
        self.sent_count += 1
        return True

    def answered(self, _data: bytes) -> bool:
        return True


@pytest.fixture
def packets() -> Packets:
    return Packets()


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[Session]:
    async with await _connect(database_url) as connection:
        yield Session(connection, 20.0)


async def _connect(url: str) -> Connection:
    return await Connection.connect(url, autocommit=True)


@asynccontextmanager
async def _through_proxy(url: str, packets: Packets) -> AsyncIterator[str]:
    proxy = Proxy(_target(url), lambda: packets)
    await proxy.open()
    yield make_conninfo(url, host=HOST, port=proxy.port)
    await proxy.aclose()


def _target(url: str) -> Target:
    found = conninfo_to_dict(url)
    host, port = str(found["host"]), int(found.get("port") or 5432)
    return Target(Path(host, f".s.PGSQL.{port}")) if host.startswith("/") else Target(host=host, port=port)


async def test_a_round_trip_is_one_packet(database_url: str, packets: Packets) -> None:
    """All statements are sent together, whether they are prepared yet or not."""
    async with _through_proxy(database_url, packets) as url, await _connect(url) as connection:
        for _ in range(2):  # the second time the statements are prepared
            before = packets.sent_count
            results = await round_trip(connection, [("SELECT %(n)s::int", {"n": number}) for number in range(5)])
            assert [result.rows for result in results] == [[(number,)] for number in range(5)]
            assert packets.sent_count == before + 1


async def test_what_the_driver_cannot_write_is_not_sent(database_url: str, packets: Packets) -> None:
    """Nothing of its round trip is, and the connection goes on."""
    async with _through_proxy(database_url, packets) as url, await _connect(url) as connection:
        before = packets.sent_count
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            await round_trip(connection, [("BEGIN", None), ("SELECT %(n)s", {"n": object()})])
        assert packets.sent_count == before
        [result] = await round_trip(connection, [("SELECT 1", None)])
        assert result.rows == [(1,)]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_a_commit_that_was_not_sent_is_definite(session: Session, text: str) -> None:
    """A text that PostgreSQL cannot have is refused before anything is sent: nothing was committed."""
    await session.pipeline(("BEGIN", None))
    with pytest.raises(DatabaseFailed):
        await session.commit(("SELECT %(text)s::text", {"text": text}))


async def test_a_statement_without_rows(session: Session) -> None:
    """One that returns no rows, and one that cannot return any, have none."""
    assert await session.pipeline(("BEGIN", None), ("SELECT 1 WHERE false", None), ("COMMIT", None)) == [[], [], []]
    assert await session.rows("SET lock_timeout = 0") == []


async def test_the_error_is_that_of_the_statement_that_failed(session: Session) -> None:
    """Those after it are skipped, and the session goes on."""
    with pytest.raises(DatabaseFailed, match="division by zero"):
        await session.pipeline(("SELECT 1", None), ("SELECT 1 / 0", None), ("SELECT 2", None))
    assert await session.pipeline(("SELECT 3", None), ("SELECT 4", None)) == [[(3,)], [(4,)]]


async def test_a_round_trip_may_be_larger_than_all_buffers(session: Session) -> None:
    """Results are read while statements are still being sent; otherwise both sides would wait for each other."""
    async with asyncio.timeout(60):
        rows = await session.pipeline(*[("SELECT %(text)s::text", {"text": LARGE})] * 3)
    assert [len(row[0][0]) for row in rows] == [len(LARGE)] * 3


async def test_what_could_not_be_prepared_is_prepared_later(database_url: str) -> None:
    """A statement about a table that does not exist yet fails, with those behind it, and works once there is one."""
    async with await Connection.connect(database_url, autocommit=True) as connection:
        for _ in range(2):
            with pytest.raises(psycopg.errors.UndefinedTable):
                await round_trip(connection, [("SELECT 1", None), ("SELECT n FROM later", None), ("SELECT 2", None)])
        await round_trip(connection, [("CREATE TEMPORARY TABLE later AS SELECT 7 AS n", None)])
        statements: list[Statement] = [("SELECT n FROM later", None), ("SELECT 2", None)]
        assert [result.rows for result in await round_trip(connection, statements)] == [[(7,)], [(2,)]]
        assert {text for text, _ in connection.prepared} >= {b"SELECT 1", b"SELECT n FROM later", b"SELECT 2"}


async def test_a_percent_sign_and_a_name_used_twice(session: Session) -> None:
    """With parameters a percent sign is written twice; without any, the text is sent as it is."""
    assert await session.rows("SELECT %(n)s::int + %(n)s::int, 7 %% 4", {"n": 1}) == [(2, 3)]
    assert await session.rows("SELECT 7 % 4, '%%'") == [(3, "%%")]


async def test_a_connection_prepares_a_limited_number_of_statements(database_url: str) -> None:
    """Those beyond the limit are sent with their text; they work all the same."""
    async with await Connection.connect(database_url, autocommit=True) as connection:
        for number in range(MOST_PREPARED + 5):
            [result] = await round_trip(connection, [(f"SELECT {number}", None)])
            assert result.rows == [(number,)]
        [found] = await round_trip(connection, [("SELECT count(*) FROM pg_prepared_statements", None)])
        assert found.rows == [(MOST_PREPARED,)]


async def test_nothing_is_prepared_behind_a_pooler(database_url: str) -> None:
    """The server's session may be another one at the next transaction."""
    async with await Connection.connect(database_url, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(10):
            await round_trip(connection, [("SELECT %(n)s::int", {"n": 1})])
        [found] = await round_trip(connection, [("SELECT count(*) FROM pg_prepared_statements", None)])
        assert found.rows == [(0,)]


async def test_a_wait_takes_no_processor_time(session: Session) -> None:
    """While the server works, the process sleeps until there is an answer."""
    before = time.process_time()
    await session.rows("SELECT pg_sleep(0.5)")
    assert time.process_time() - before < 0.25


async def test_the_server_says_why_it_ended_the_connection(database_url: str) -> None:
    """Its reason is the error, although the connection is lost when the rest of the answers is read."""
    async with await Connection.connect(database_url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.AdminShutdown):
            await round_trip(connection, [("SELECT pg_terminate_backend(pg_backend_pid())", None), ("SELECT 1", None)])
        assert connection.closed

"""A connection to a real PostgreSQL: what it keeps from one round trip to the next, and what it must not keep."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.numeric import Int8Dumper

from app.postgres.connection import Connection
from app.postgres.pipeline import round_trip

TYPE = "SELECT pg_typeof(%(n)s)::text"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await Connection.connect(database_url, autocommit=True) as connection:
        yield connection


async def _row(connection: Connection, statement: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
    [result] = await round_trip(connection, [(statement, parameters)])
    [row] = result.rows
    return row


async def test_values_are_written_as_was_last_said(connection: Connection) -> None:
    """Also those of a type that was written before, as a new connection's first statements do."""
    assert await _row(connection, TYPE, {"n": 1}) == ("smallint",)
    connection.write_with({int: Int8Dumper})
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

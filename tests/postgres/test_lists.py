"""Lists of texts, as a real PostgreSQL reads them."""

from typing import Any

import psycopg
import pytest

from app.postgres.lists import TextListDumper
from tests.limits import open_database

LISTS: tuple[list[Any], ...] = (
    [],
    ["a"],
    ["a", "b"],
    ["", " ", "NULL", "null", "{}", "a,b", "'", "ä€😀"],
    ['"', "b"],
    ['x","y'],
    ["\\", "b"],
    ["a", None, "b"],
    [None],
)


@pytest.mark.parametrize("given", LISTS, ids=str)
async def test_a_list_arrives_as_it_is(database_url: str, given: list[Any]) -> None:
    """Whatever its texts contain."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        connection.adapters.register_dumper(list, TextListDumper)
        cursor = await connection.execute("SELECT %(given)s::text[]", {"given": given})
        assert await cursor.fetchone() == (given,)


async def test_a_text_that_cannot_be_stored_is_refused(database_url: str) -> None:
    """PostgreSQL has no character 0, and would take the list to end there."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        connection.adapters.register_dumper(list, TextListDumper)
        with pytest.raises(psycopg.DataError):
            await connection.execute("SELECT %(given)s::text[]", {"given": ["a", "b\0c"]})


async def test_other_lists(database_url: str) -> None:
    """Lists of numbers and of lists are the driver's."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        connection.adapters.register_dumper(list, TextListDumper)
        cursor = await connection.execute("SELECT %(a)s::int[], %(b)s::text[]", {"a": [1, 2], "b": [["a"], ["b"]]})
        assert await cursor.fetchone() == ([1, 2], [["a"], ["b"]])


async def test_bytes_arrive_as_they_are(database_url: str) -> None:
    """Alone and in a list, on a connection of the service: hashes and bodies may have any bytes."""
    every, database = bytes(range(256)), open_database(database_url)
    given = {"one": every, "many": [b"", b"it's", b"\\x41", every]}
    async with database.writes.session() as session:
        rows = await session.rows("SELECT %(one)s::bytea, %(many)s::bytea[]", given)
    await database.close()
    assert rows == [(given["one"], given["many"])]

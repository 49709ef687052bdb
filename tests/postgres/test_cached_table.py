"""The SQL of ``cached_table``: which tables it refuses, and that the text of a release never changes."""

import hashlib

import psycopg
import pytest

from app.cache.entity import Entity
from app.cache.postgres.cached_table import cache_tables, cached_table, histories

FROZEN = {1: ("63361f8d21a7a89a", "f18150448fae4414")}
FROZEN_HISTORIES = {2: "fc837b06e7ef51cb"}
"""A migration that has run must not change: a correction is a new release."""


@pytest.mark.parametrize("release", FROZEN)
def test_text_is_frozen(release: int) -> None:
    """The text of each release is the text that migrations have run."""
    texts = cache_tables(release), cached_table("suppliers", "id", release)
    assert tuple(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts) == FROZEN[release]


@pytest.mark.parametrize("release", FROZEN_HISTORIES)
def test_text_of_histories_is_frozen(release: int) -> None:
    """So is what was added to a release."""
    assert hashlib.sha256(histories(release).encode()).hexdigest()[:16] == FROZEN_HISTORIES[release]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ("id text", "is not a key"),
        ("id text UNIQUE", "is not a key"),
        ("id text NOT NULL, part text, UNIQUE (id, part)", "is not a key"),
        ("name text PRIMARY KEY", "is not a key"),
        ("id numeric PRIMARY KEY", "two spellings"),
        ("id char(8) PRIMARY KEY", "two spellings"),
        ("id text PRIMARY KEY) PARTITION BY HASH (id", "partitioned"),
    ],
)
async def test_table_without_one_spelling_of_its_key(database_url: str, columns: str, reason: str) -> None:
    """A table whose rows have no key, or a key of several spellings, or whose triggers would miss changes, is refused."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(f"CREATE TABLE things ({columns})".encode())
        with pytest.raises(psycopg.errors.RaiseException, match=reason):
            await connection.execute(cached_table("things", "id", release=1).encode())


async def test_database_without_larder(empty_database_url: str) -> None:
    """A service of its own makes the shared tables once; then each table has an epoch, which names system and timeline."""
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        await connection.execute(cache_tables(release=1).encode())
        await connection.execute("CREATE TABLE things (id uuid PRIMARY KEY)")
        await connection.execute(cached_table("things", "id", release=1).encode())
        cursor = await connection.execute("SELECT larder_epoch('things', 1), larder_finish('things', 2)")
        assert [epoch.count(".") and finished for epoch, finished in await cursor.fetchall()] == [True]
        before = await (await connection.execute("SELECT larder_epoch('things', 2)")).fetchall()
        await connection.execute(histories(release=2).encode())
        assert await (await connection.execute("SELECT larder_epoch('things', 2)")).fetchall() == before
        for statement in ("SELECT * FROM larder_try_epoch('things', 1)", "SELECT * FROM larder_try_epoch('nothing', 1)"):
            [[epoch, objection]] = await (await connection.execute(statement.encode())).fetchall()
            assert epoch is None
            assert objection


@pytest.mark.parametrize("name", ["", "Things", "1st", "a b", 'a"b', "a;b", "x" * 41, "größe"])
def test_names_that_need_quotes(name: str) -> None:
    """Names are put into statements as they are, so only plain ones are taken."""
    with pytest.raises(ValueError, match="no name"):
        cached_table(name, "id", release=1)
    with pytest.raises(ValueError, match="no name"):
        Entity("n", 1, "things", "id", (name,), lambda **_: b"")

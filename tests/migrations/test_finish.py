"""The two steps of a rolling deploy: what they wait for, what they leave behind, and whom they refuse afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from app.cache.ports import Value
from app.postgres.errors import DatabaseUnsuitable, LockTimeout
from app.postgres.migrations import finish, payload_schema, upgrade
from app.products.commands import Adjust, Create
from app.products.decision import Denied
from app.products.errors import NotEnabled
from app.products.idempotency import Answer, IdempotencyKey, Origin, WriteRequest
from app.products.payload import SCHEMA
from app.products.product import Draft, Line, Reason
from app.products.reservation import RequestedLine
from app.products.reservation_commands import Commit, Reserve
from app.products.source import ProductSource
from app.products.transactions import ProductTransactions
from tests.cli.larder_process import Larder
from tests.harness.servers import execute
from tests.limits import open_database
from tests.migrations.test_upgrade import OBJECTS

_LATER = SCHEMA + 5


@asynccontextmanager
async def _in_use(url: str, statement: str) -> AsyncIterator[None]:
    """A transaction of somebody else's that has begun with this statement and does not end."""
    async with await psycopg.AsyncConnection.connect(url, application_name="report") as somebody:
        await somebody.execute(statement.encode())
        yield


async def test_a_migration_waits_briefly_for_a_table_in_use(empty_database_url: str) -> None:
    """It names who uses the tables, changes nothing, and holds nobody up; afterwards it goes through."""
    await upgrade(empty_database_url, "0002")
    before = await execute(empty_database_url, OBJECTS)
    async with _in_use(empty_database_url, "SELECT FROM cache_generations"):
        with pytest.raises(LockTimeout, match=r"process \d+ \(report, idle in transaction for \d+ s\).*Nothing was changed"):
            await upgrade(empty_database_url)
        assert await execute(empty_database_url, OBJECTS) == before
    assert await upgrade(empty_database_url) == "0002"


async def test_a_finish_waits_briefly_for_a_write_under_way(database_url: str) -> None:
    """It says who was in the way; both releases go on, and it can be run again."""
    async with _in_use(database_url, "LOCK TABLE products IN ROW EXCLUSIVE MODE"):
        with pytest.raises(LockTimeout, match=r"process \d+ \(report, idle in transaction"):
            await finish(database_url, "products", _LATER)
        assert await payload_schema(database_url, "products") == SCHEMA
    assert await finish(database_url, "products", _LATER)


async def test_a_command_that_gives_up_says_that_both_releases_go_on(database_url: str, tmp_path: Path) -> None:
    """`larder migrate --finish` ends with a status and one sentence, no traceback."""
    larder = Larder(tmp_path)
    await execute(database_url, "UPDATE cache_generations SET payload_schema = 1")
    async with _in_use(database_url, "LOCK TABLE products IN ROW EXCLUSIVE MODE"):
        said = await larder.failure("migrate", "--finish", LARDER_DATABASE_URL=database_url)
    assert "in use by another transaction" in said
    assert "both releases go on" in said


async def test_a_database_that_was_empty_begins_finished(empty_database_url: str) -> None:
    """It has the schema of the release that made it, not of the one whose migration this was; one that exists keeps its own."""
    await upgrade(empty_database_url, schemas={"products": _LATER})
    assert await payload_schema(empty_database_url, "products") == _LATER
    await upgrade(empty_database_url, schemas={"products": _LATER + 1})
    assert await payload_schema(empty_database_url, "products") == _LATER


async def test_a_release_that_is_too_old_refuses_what_would_change_nothing(database_url: str) -> None:
    """Neither a refusal nor an answer of before is given by a release that does not know what it reads; nothing is kept."""
    database = open_database(database_url)
    try:
        transactions = ProductTransactions(database)
        await transactions.commit([WriteRequest(Create(Draft("a", "A", 1, 1, 0)))])
        await finish(database_url, "products", _LATER)
        take = Adjust([Line("a", -2)], Reason.SALE)
        once = IdempotencyKey("", "key", b"hash", lambda _result: Answer(409, b"no"))
        for asked in (WriteRequest(take), WriteRequest(take, Origin(idempotency_key=once))):
            with pytest.raises(DatabaseUnsuitable, match="too old"):
                await transactions.commit([asked])
    finally:
        await database.close()
    assert await execute(database_url, "SELECT count(*) FROM idempotency_records") == [(0,)]


async def test_reservations_begin_with_the_finish(database_url: str) -> None:
    """Before it products are answered as the release before does, and whoever reserves is told why that cannot be."""
    await execute(database_url, "UPDATE cache_generations SET payload_schema = 2 WHERE relation = 'products'")
    database = open_database(database_url)
    try:
        transactions, source = ProductTransactions(database), ProductSource(database)
        committed = await transactions.commit([WriteRequest(Create(Draft("a", "A", 1, 5, 0)))])
        assert [b"reserved" in state.payload for state in committed.states if isinstance(state, Value)] == [False]
        assert committed.states == list((await source.load(["a"])).values())
        for command in (Reserve([RequestedLine("a", 1)], 9), Commit("0" * 32)):
            [decision] = (await transactions.commit([WriteRequest(command)])).decisions
            assert isinstance(decision, Denied)
            assert isinstance(decision.refusal, NotEnabled)
        for read in (
            source.reservations.get("0" * 32),
            source.reservations.by_reference("cart", status=None, limit=9, after=None),
        ):
            with pytest.raises(NotEnabled):
                await read
        await transactions.commit([WriteRequest(Adjust([Line("a", -1)], Reason.SALE))])
        assert await finish(database_url, "products", SCHEMA)
        committed = await transactions.commit([WriteRequest(Reserve([RequestedLine("a", 3)], 9))])
        assert committed.states == list((await source.load(["a"])).values())
        assert [b'"reserved":3,"available":1}' in s.payload for s in committed.states if isinstance(s, Value)] == [True]
    finally:
        await database.close()
    with pytest.raises(psycopg.errors.UndefinedTable, match="too old"):
        await execute(database_url, "SELECT larder_epoch('products', 2)")


async def test_checks_are_validated_after_the_migration(empty_database_url: str) -> None:
    """Columns come without a look at any row; afterwards nothing is left that is only believed."""
    await upgrade(empty_database_url, "0005")
    await execute(empty_database_url, "INSERT INTO products (id, name, price_cents, stock) VALUES ('a', 'A', 1, 5)")
    await upgrade(empty_database_url)
    assert await execute(empty_database_url, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
    assert await payload_schema(empty_database_url, "products") == SCHEMA - 1

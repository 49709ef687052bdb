"""Transactions on a real PostgreSQL: races, batches, read-back, and what a session leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest

from app.cache.ports import Absent, Value
from app.postgres.database import Database
from app.postgres.errors import DatabaseOverloaded, DatabaseUnavailable
from app.products.commands import Change, Command, Create, Put, Upsert, count, delete
from app.products.errors import AlreadyExists, ProductsMissing
from app.products.idempotency import Asked
from app.products.product import Draft, Product
from app.products.source import ProductSource
from app.products.transactions import Committed, ProductTransactions


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, lock_timeout_ms=300)
    yield database
    await database.close()


@pytest.fixture
def transactions(database: Database) -> ProductTransactions:
    return ProductTransactions(database)


async def commit(transactions: ProductTransactions, commands: Sequence[Command]) -> Committed:
    """Commit commands in one transaction, none of them with an idempotency key."""
    return await transactions.commit([Asked(command) for command in commands])


def draft(product_id: str, stock: int | None = None) -> Draft:
    return Draft(product_id, "Name", 100, stock)


async def test_states_are_what_a_read_finds(database: Database, transactions: ProductTransactions) -> None:
    """What a transaction gives to publish is, byte for byte, what the source loads afterwards."""
    ids = ["a", "b", "c"]
    await commit(transactions, [Upsert([draft(key) for key in ids])])
    committed = await commit(transactions, [count("a", 5), delete("b"), Put(draft("c")), Create(draft("d"))])
    loaded = await ProductSource(database, "n").load([*ids, "d"])
    assert {state.key: state for state in committed.states} == loaded
    assert isinstance(loaded["a"], Value)
    assert isinstance(loaded["b"], Absent)
    assert loaded["c"].version == 1  # unchanged, and given to publish all the same (R10)


async def test_triggers_of_others_count(database_url: str, transactions: ProductTransactions) -> None:
    """The read-back comes last, so that what another trigger made of a row is what gets published."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
        await hand.execute(
            "CREATE FUNCTION round_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.price_cents := 999; RETURN NEW; END $$"
        )
        await hand.execute("CREATE TRIGGER a_round_up BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION round_up()")
    await commit(transactions, [Create(draft("a"))])
    committed = await commit(transactions, [count("a", 5)])
    [state] = committed.states
    assert isinstance(state, Value)
    assert b'"price_cents":999' in state.payload
    [[effect]] = [result for result in committed.decisions if not isinstance(result, Exception)]
    assert isinstance(effect.row, Product)
    assert effect.row.price_cents == 999


async def test_commands_of_one_transaction_see_each_other(transactions: ProductTransactions) -> None:
    """Each is decided on what the one before it left, and a refusal among them leaves the others alone."""
    committed = await commit(
        transactions, [Create(draft("a")), Create(draft("a")), count("a", 3), delete("a"), count("a", 4), Create(draft("a", 9))]
    )
    assert [type(result) if isinstance(result, Exception) else result[0].row.version for result in committed.decisions] == [
        1,
        AlreadyExists,
        2,
        3,
        ProductsMissing,
        4,
    ]
    [state] = committed.states
    assert isinstance(state, Value)
    assert state.version >= 4


async def test_created_and_deleted_in_one_transaction(transactions: ProductTransactions) -> None:
    """It leaves a tombstone, so that the id's next life goes on from its version."""
    committed = await commit(transactions, [Create(draft("a")), delete("a")])
    [state] = committed.states
    assert isinstance(state, Absent)
    [result] = (await commit(transactions, [Create(draft("a"))])).results
    assert not isinstance(result, Exception)
    assert result[0].row.version == state.version + 1


async def test_two_create_the_same_product(transactions: ProductTransactions) -> None:
    """One creates it, the other finds it there: no error of the database comes through."""
    for number in range(10):
        both = await asyncio.gather(*(commit(transactions, [Create(draft(f"p{number}"))]) for _ in range(2)))
        results = [committed.decisions[0] for committed in both]
        assert sum(isinstance(result, AlreadyExists) for result in results) == 1


async def test_batches_in_opposite_order(transactions: ProductTransactions) -> None:
    """Rows are locked in one order for everybody: batches that name them crosswise neither deadlock nor lose an update."""
    ids = [f"p{number:02}" for number in range(30)]
    await commit(transactions, [Upsert([draft(key) for key in ids])])

    async def upsert(order: list[str]) -> Committed:
        return await commit(transactions, [Upsert([draft(key, 1) for key in order])])

    done = await asyncio.gather(*(upsert(ids if number % 2 else ids[::-1]) for number in range(10)))
    versions = sorted(max(state.version for state in committed.states) for committed in done)
    assert versions == list(range(2, 12))


async def test_row_that_another_transaction_holds(database_url: str, database: Database) -> None:
    """A lock that is not given in time is tried again, then reported as overload; nothing was changed."""
    transactions = ProductTransactions(database, attempts=2)
    await commit(transactions, [Create(draft("a"))])
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("SELECT 1 FROM products FOR UPDATE")
        with pytest.raises(DatabaseOverloaded, match="2 times"):
            await commit(transactions, [count("a", 5)])
        await holder.rollback()
    [result] = (await commit(transactions, [count("a", 5)])).results
    assert not isinstance(result, Exception)
    assert (result[0].row.version, result[0].change) == (2, Change.UPDATED)


async def test_refused_transaction_leaves_no_lock(database_url: str, transactions: ProductTransactions) -> None:
    """A transaction that decided nothing is ended before its connection goes back to the pool."""
    await commit(transactions, [Create(draft("a"))])
    await commit(transactions, [Create(draft("a"))])
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as hand:
        cursor = await hand.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
        assert await cursor.fetchone() == (0,)
        await hand.execute("SELECT 1 FROM products FOR UPDATE NOWAIT")


async def test_failure_elsewhere_while_a_connection_is_in_use(database: Database) -> None:
    """A pool that is begun afresh closes the connections that were in use then, when their users are done with them."""

    async def fail() -> None:
        async with database.session():
            raise DatabaseUnavailable("the test says so")

    async with database.session() as session:
        with pytest.raises(DatabaseUnavailable):
            await fail()
        assert await session.rows("SELECT 1") == [(1,)]
    await database.close()
    left_open = not session._connection.closed
    await session._connection.close()
    assert not left_open


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_database_is_away(attempts: int) -> None:
    """However often it is tried, an outage is called one, not a defect."""
    database = Database("postgresql://larder@127.0.0.1:1/larder")
    with pytest.raises(DatabaseUnavailable):
        await ProductTransactions(database, attempts=attempts).commit([Asked(Create(draft("a")))])
    await database.close()


async def test_times_of_what_one_transaction_creates_and_deletes(transactions: ProductTransactions) -> None:
    """The creation is answered with the transaction's time, although no row is left to read it from."""
    created, _ = (await commit(transactions, [Create(draft("a", 3)), delete("a")])).results
    assert not isinstance(created, Exception)
    row = created[0].row
    assert isinstance(row, Product)
    assert row.created_at == row.updated_at == created[0].recorded_at

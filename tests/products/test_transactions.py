"""Transactions on a real PostgreSQL: races, batches, read-back, and what a session leaves behind."""

from collections.abc import Sequence

import psycopg
import pytest

from app.cache.ports import Value
from app.postgres.database import Database
from app.postgres.errors import DatabaseUnavailable, LockTimeout
from app.products.commands import Change, Command, Create, Effect, Upsert, delete, set_stock
from app.products.decision import Decision, Denied, Done, Postponed
from app.products.errors import ProductsMissing, Refused
from app.products.idempotency import WriteRequest
from app.products.product import Draft, Precondition, Product
from app.products.transaction import Committed, Patience
from app.products.transactions import ProductTransactions, RowsHeld
from app.settings import Settings
from tests.harness.servers import execute
from tests.limits import open_database
from tests.products.instances import by_hand, deviations


@pytest.fixture
def transactions(database: Database) -> ProductTransactions:
    return ProductTransactions(database)


async def commit(transactions: ProductTransactions, commands: Sequence[Command]) -> Committed:
    """Commit commands in one transaction, none of them with an idempotency key."""
    return await transactions.commit([WriteRequest(command) for command in commands])


def effects(decision: Decision) -> Sequence[Effect]:
    assert isinstance(decision, Done)
    return decision.effects


def told(decision: Decision) -> int | type[Refused]:
    """The version that came of a request, or why it was refused."""
    return type(decision.refusal) if isinstance(decision, Denied) else effects(decision)[0].row.version


def draft(product_id: str, stock: int | None = None) -> Draft:
    return Draft(product_id, "Name", 100, stock)


@pytest.mark.guarantee("R3")
async def test_triggers_of_others_count(database_url: str, transactions: ProductTransactions) -> None:
    """The read-back comes last, so that what another trigger made of a row is what gets published."""
    await execute(
        database_url,
        "CREATE FUNCTION round_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.price_cents := 999; RETURN NEW; END $$;"
        "CREATE TRIGGER a_round_up BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION round_up()",
    )
    await commit(transactions, [Create(draft("a"))])
    committed = await commit(transactions, [set_stock("a", 5)])
    [state] = committed.states
    assert isinstance(state, Value)
    assert b'"price_cents":999' in state.payload
    [[effect]] = [effects(decision) for decision in committed.decisions]
    assert isinstance(effect.row, Product)
    assert effect.row.price_cents == 999


async def test_row_that_another_transaction_holds(database_url: str, transactions: ProductTransactions) -> None:
    """Who needs it is postponed, at once and with nothing changed; its neighbours in the batch are done."""
    await commit(transactions, [Create(draft("held")), Create(draft("free"))])
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("SELECT 1 FROM products WHERE id = 'held' FOR UPDATE")
        asked = [
            set_stock("free", 5),
            set_stock("held", 5),
            Upsert([draft("new"), draft("held")]),
            set_stock("none", 1),
            set_stock("free", 6),
        ]
        committed = await commit(transactions, asked)
        assert committed.decisions[1:3] == [Postponed(["held"])] * 2
        assert [told(committed.decisions[place]) for place in (0, 3, 4)] == [2, ProductsMissing, 3]
        assert {state.key for state in committed.states} == {"free"}
        with pytest.raises(RowsHeld):
            await transactions.commit([WriteRequest(set_stock("held", 5))], Patience(30, ["held"]))
        await holder.rollback()
    [decision] = (await transactions.commit([WriteRequest(set_stock("held", 5))], Patience(30, ["held"]))).decisions
    assert (told(decision), effects(decision)[0].change) == (2, Change.UPDATED)


async def test_a_lock_of_another_kind_is_not_waited_for_long(database_url: str, transactions: ProductTransactions) -> None:
    """An id that somebody else is creating, a table that is locked: a conflict soon, and nothing was changed."""
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("INSERT INTO products (id, name, price_cents) VALUES ('a', 'Mug', 1)")
        with pytest.raises(LockTimeout) as conflict:
            await commit(transactions, [Create(draft("a")), Create(draft("b"))])
        assert not isinstance(conflict.value, RowsHeld)
        await holder.rollback()
        await holder.execute("LOCK TABLE stock_movements IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LockTimeout):
            await commit(transactions, [Create(draft("a"))])
        await holder.rollback()
        await holder.execute("LOCK TABLE products IN EXCLUSIVE MODE")
        with pytest.raises(RowsHeld):
            await commit(transactions, [Create(draft("a"))])
        await holder.rollback()
    assert [told(decision) for decision in (await commit(transactions, [Create(draft("a"))])).decisions] == [1]


async def test_a_ledger_that_is_ahead_of_its_product(settings: Settings, transactions: ProductTransactions) -> None:
    """Products restored alone: writes go on above the newest movement, and the ledger adds up again."""
    await commit(transactions, [Create(draft("a", 10)), Create(draft("b", 10)), Create(draft("c", 10)), Create(draft("d", 10))])
    async with by_hand(settings) as hand:
        for product_id, version in (("a", 2), ("b", 2), ("b", 3), ("c", 2), ("e", 1), ("e", 4)):
            await hand.execute("INSERT INTO stock_movements VALUES (%s, %s, 0, -1, 9, 'sale')", (product_id, version))
    [decision] = (await commit(transactions, [set_stock("a", 7, Precondition(versions=frozenset({"1"})))])).decisions
    assert told(decision) == 3
    batch = [
        set_stock("b", 5),
        set_stock("b", 6),
        set_stock("d", 1),
        delete("c"),
        Create(draft("e", 3)),
        Create(draft("c", 2)),
    ]
    committed = await commit(transactions, batch)
    assert [told(decision) for decision in committed.decisions] == [4, 5, 2, 3, 5, 4]
    assert {state.key: state.version for state in committed.states} == {"b": 5, "c": 4, "d": 2, "e": 5}
    assert await deviations(settings) == []


async def test_refused_transaction_leaves_no_lock(database_url: str, transactions: ProductTransactions) -> None:
    """A transaction that decided nothing is ended before its connection goes back to the pool."""
    await commit(transactions, [Create(draft("a"))])
    await commit(transactions, [Create(draft("a"))])
    open_ones = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    assert await execute(database_url, open_ones) == []
    assert await execute(database_url, "SELECT 1 FROM products FOR UPDATE NOWAIT") == [(1,)]


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_database_is_away(attempts: int) -> None:
    """However often it is tried, an outage is called one, not a defect."""
    database = open_database("postgresql://larder@127.0.0.1:1/larder")
    with pytest.raises(DatabaseUnavailable):
        await ProductTransactions(database, attempts=attempts).commit([WriteRequest(Create(draft("a")))])
    await database.close()

"""Transactions of a service's own, which are read back before COMMIT and published after it."""

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.cache import Absent, Caches, CommitUnknown, Status, TransactionConflict, Value
from app.postgres.migrations import single_use_engine
from tests.component.conftest import Tables
from tests.component.test_caches import all_hit


@pytest.mark.guarantee("G1", "R3")
async def test_own_transaction(caches: Caches, tables: Tables) -> None:
    """What it changed is published after COMMIT, unnamed rows and deletions too, whatever rows its connection makes."""
    await all_hit(caches, tables)
    connection = await psycopg.AsyncConnection.connect(tables.database_url, row_factory=dict_row)
    async with connection:
        await connection.execute("UPDATE suppliers SET terms = 60 WHERE id = 'acme'")
        await connection.execute("DELETE FROM counters WHERE number = 7")
        own = await caches.read_back(connection, {tables.suppliers: ["acme", "nobody"], tables.counters: []})
        await connection.commit()
        states = await own.committed()
    assert {key: state.version for key, state in states[tables.suppliers].items()} == {"acme": 2, "nobody": 0}
    read = await caches[tables.suppliers].read("acme")
    assert (read.status, read.state) == (Status.HIT, states[tables.suppliers]["acme"])
    gone = await caches[tables.counters].read(7)
    assert (type(gone.state), gone.state.version) == (Absent, 2)


@pytest.mark.guarantee("G1")
async def test_own_transaction_of_sqlalchemy(caches: Caches, tables: Tables) -> None:
    """The connection of an SQLAlchemy session is one of psycopg's."""
    await all_hit(caches, tables)
    engine = single_use_engine(tables.database_url)
    async with AsyncSession(engine) as session:
        await session.execute(text("UPDATE counters SET total = 71 WHERE number = 7"))
        raw = await (await session.connection()).get_raw_connection()
        assert isinstance(raw.driver_connection, psycopg.AsyncConnection)
        own = await caches.read_back(raw.driver_connection, {tables.counters: [7]})
        await session.commit()
    states = await own.committed()
    await engine.dispose()
    read = await caches[tables.counters].read(7)
    assert isinstance(read.state, Value)
    assert (read.status, read.state.version, states) == (Status.HIT, 2, {tables.counters: {7: read.state}})


@pytest.mark.guarantee("G2")
async def test_own_transaction_that_is_not_committed(caches: Caches, tables: Tables) -> None:
    """Nothing is published of a transaction that is still open, that was rolled back, or that has not begun."""
    await all_hit(caches, tables)
    async with await psycopg.AsyncConnection.connect(tables.database_url) as connection:
        with pytest.raises(TransactionConflict, match="inside of a transaction"):
            await caches.read_back(connection, {tables.suppliers: ["acme"]})
        await connection.execute("UPDATE suppliers SET terms = 60 WHERE id = 'acme'")
        own = await caches.read_back(connection, {tables.suppliers: ["acme"]})
        with pytest.raises(TransactionConflict, match="in progress"):
            await own.committed()
        await connection.rollback()
        with pytest.raises(TransactionConflict, match="aborted"):
            await own.committed()
    read = await caches[tables.suppliers].read("acme")
    assert (read.status, read.state.version) == (Status.HIT, 1)


async def test_transaction_of_another_database(caches: Caches, tables: Tables) -> None:
    """A transaction id that the database does not know is neither a commit nor a rollback."""
    await all_hit(caches, tables)
    with pytest.raises(CommitUnknown, match="does not know"):
        await caches._transactions.check_committed(str(2**62))

"""Transactions of a service's own, which are read back before COMMIT and published after it."""

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.cache import (
    Absent,
    Caches,
    CommitUnknown,
    DataRefused,
    Entity,
    Session,
    Status,
    TransactionConflict,
    Value,
    cached_table,
    open_caches,
)
from app.postgres.migrations import single_use_engine
from tests.component.conftest import LIMITS, Tables
from tests.component.test_caches import all_hit
from tests.contracts.entities import payload


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


@pytest.mark.guarantee("G1")
async def test_own_transaction_with_other_types(tables: Tables, redis_url: str) -> None:
    """One version has one payload, whatever time zone and adapters the connection that wrote it has."""
    await tables.hand.execute("CREATE TABLE visits (id integer PRIMARY KEY, at timestamptz NOT NULL, facts jsonb NOT NULL)")
    await tables.hand.execute(cached_table("visits", "id", release=1).encode())
    visits = Entity(f"{tables.products.namespace}-visits", 1, "visits", "id", ("at", "facts"), payload, key_type="bigint")
    async with (
        open_caches(tables.database_url, redis_url, [visits], limits=LIMITS) as caches,
        await psycopg.AsyncConnection.connect(tables.database_url) as connection,
    ):
        await connection.execute("SET TimeZone = 'Asia/Tokyo'")
        set_json_loads(lambda text: f"loaded {text!r}", connection)
        await connection.execute("""INSERT INTO visits VALUES (1, '2027-01-01 00:00+00', '{"guests": 2}')""")
        own = await caches.read_back(connection, {visits: [1]})
        await connection.commit()
        states = await own.committed()
        read = await caches[visits].read(1, refresh=True)
    assert isinstance(read.state, Value)
    assert read.state == states[visits][1]
    assert b"2027-01-01 00:00:00+00:00" in read.state.payload


async def test_transaction_of_another_database(caches: Caches, tables: Tables) -> None:
    """A transaction id that the database does not know is neither a commit nor a rollback."""
    await all_hit(caches, tables)
    with pytest.raises(CommitUnknown, match="does not know"):
        await caches._transactions.check_committed(str(2**62))


async def test_values_that_the_table_refuses(caches: Caches, tables: Tables) -> None:
    """A constraint's refusal is told apart from a failure, and names the constraint."""
    await tables.hand.execute("ALTER TABLE suppliers ADD CONSTRAINT not_negative CHECK (terms >= 0)")

    async def change(db: Session) -> None:
        await db.rows("UPDATE suppliers SET terms = -1 WHERE id = 'acme'")

    with pytest.raises(DataRefused) as refused:
        await caches[tables.suppliers].write(["acme"], change)
    cause = refused.value.__cause__
    assert isinstance(cause, psycopg.errors.CheckViolation)
    assert cause.diag.constraint_name == "not_negative"

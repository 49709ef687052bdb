"""PostgreSQL behind PgBouncer in transaction mode: nothing depends on a session, and nothing is left in one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from app.cache.postgres import table_queries
from app.postgres.database import Database, limits_of
from app.postgres.errors import (
    CommitUnknown,
    DatabaseRefused,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    LockTimeout,
    TransactionConflict,
)
from app.postgres.migrations import LOCK, upgrade
from app.postgres.parameters import ANSWERS, PLANS
from app.postgres.pipeline import Parameters
from app.postgres.pooler import role_parameters, set_role, shares_sessions
from app.postgres.primary import Primary
from app.products.source import PRODUCTS
from tests.harness.pgbouncer import PgBouncer, place_of, prepare_role, start_pgbouncer
from tests.harness.servers import execute
from tests.limits import open_database

TIMEOUT_MS = 10_000


def _name(url: str) -> str:
    return str(conninfo_to_dict(url)["dbname"])


@pytest.fixture
async def pooled(pgbouncer: PgBouncer, database_url: str) -> AsyncIterator[Database]:
    """Larder's connections to a database of the test's own, through PgBouncer, as after `larder migrate`."""
    await prepare_role(database_url)
    database = open_database(pgbouncer.url(_name(database_url)), pooler="transaction", connections=5)
    yield database
    await database.close()


async def test_role_that_was_not_prepared(pgbouncer: PgBouncer, database_url: str) -> None:
    """A parameter on which answers depend refuses every connection, until the role is prepared and the sessions are new."""
    name = _name(database_url)
    await execute(database_url, f"ALTER DATABASE {name} SET IntervalStyle = 'iso_8601'")
    database = open_database(pgbouncer.url(name), pooler="transaction", connections=5)
    with pytest.raises(DatabaseUnsuitable, match="larder migrate"):
        await database.loads.rows("SELECT 1")
    await prepare_role(database_url)
    with pytest.raises(DatabaseUnsuitable, match="RECONNECT"):
        await database.loads.rows("SELECT 1")
    await pgbouncer.command(f"RECONNECT {name}")
    async with asyncio.timeout(10):
        while await _is_refused(database):
            await asyncio.sleep(0.02)
    assert await database.loads.rows("SHOW IntervalStyle") == [("postgres",)]
    await database.close()


async def _is_refused(database: Database) -> bool:
    try:
        await database.loads.rows("SELECT 1")
    except DatabaseUnavailable:
        return True
    return False


async def test_role_is_prepared_once(database_url: str) -> None:
    """What is as it must be is left alone, and the settings hold for this role in this database only."""
    wanted = role_parameters(limits_of(4_321, 21))
    async with await Primary(database_url).open(TIMEOUT_MS) as connection:
        assert {"DateStyle", "enable_seqscan", "statement_timeout"} <= set(await set_role(connection, wanted))
    async with await Primary(database_url).open(TIMEOUT_MS) as connection:
        assert await set_role(connection, wanted) == []
        [(timeout,)] = await (await connection.execute("SHOW statement_timeout")).fetchall()
    assert timeout == "4321ms"
    elsewhere = "SELECT count(DISTINCT setdatabase) FROM pg_db_role_setting WHERE 'statement_timeout=4321' = ANY (setconfig)"
    assert await execute(database_url, elsewhere) == [(1,)]


async def test_transaction_has_the_parameters_of_its_share(pooled: Database) -> None:
    """Two shares on one session of the server: each transaction has its own limits, and nothing is left behind."""
    shown = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), pg_backend_pid()"
    async with pooled.writes.session() as writes:
        _, [(_, write_lock, first)], _ = await writes.pipeline(("BEGIN", None), (shown, None), ("COMMIT", None))
        async with pooled.audit.session() as audit:
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
            _, [(_, audit_lock, second)], _ = await audit.pipeline((begin, None), (shown, None), ("COMMIT", None))
    assert first == second, "the pooler had two sessions, so the test shows nothing"
    assert (write_lock, audit_lock) == ("20ms", "2s")
    assert [row[:2] for row in await pooled.lists.rows(shown)] == [("5s", "2s")]


async def test_snapshot_comes_after_the_lock(pooled: Database, database_url: str) -> None:
    """What follows the audit's BEGIN takes no snapshot: rows that are committed before the lock is held are in it."""
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    async with pooled.audit.session() as session:
        await session.pipeline((begin, None))
        await execute(database_url, "INSERT INTO products (id, name, price_cents) VALUES ('late', 'Late', 1)")
        _, rows, _ = await session.pipeline(
            (table_queries.lock([PRODUCTS], wait=True), None), ("SELECT id FROM products", None), ("COMMIT", None)
        )
    assert rows == [("late",)]


async def test_write_is_durable(pooled: Database) -> None:
    """A session that another client told not to wait for the disk waits for it when Larder writes."""
    async with pooled.writes.session() as session:
        await pooled.loads.rows("SET synchronous_commit = off")
        assert await session.rows("SHOW synchronous_commit") == [("off",)], "the pooler had two sessions"
        _, rows, _ = await session.pipeline(("BEGIN", None), ("SHOW synchronous_commit", None), ("COMMIT", None))
        assert rows == [("on",)]
        await pooled.loads.rows("SET synchronous_commit = on")


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT larder_require(false, 'no')", TransactionConflict),
        ("SELECT pg_terminate_backend(pg_backend_pid())", CommitUnknown),
    ],
)
async def test_statements_before_commit(pooled: Database, statement: LiteralString, error: type[Exception]) -> None:
    """The pooler passes on what the server reported; what it says itself when the server is gone is no answer to COMMIT."""
    changes = "INSERT INTO products (id, name, price_cents) VALUES ('a', 'Mug', 1)"
    async with pooled.writes.session() as session:
        await session.pipeline(("BEGIN", None))
        with pytest.raises(error) as failure:
            await session.commit((changes, None), (statement, None))
    assert type(failure.value) is error
    assert await pooled.writes.rows("SELECT id FROM products") == []
    async with pooled.writes.session() as session:
        await session.pipeline(("BEGIN", None))
        assert await session.commit((changes, None), ("SELECT id FROM products", None)) == [[], [("a",)]]


async def test_server_that_waits_for_no_disk(pgbouncer: PgBouncer, database_url: str) -> None:
    """Where `synchronous_commit` is off it is turned on for the role; until then no connection is used."""
    await execute(database_url, f"ALTER DATABASE {_name(database_url)} SET synchronous_commit = off")
    database = open_database(pgbouncer.url(_name(database_url)), pooler="transaction", connections=5)
    async with await Primary(database_url).open(TIMEOUT_MS) as connection:
        await connection.execute("SET synchronous_commit = on")
        await set_role(connection, role_parameters({}))
    with pytest.raises(DatabaseUnsuitable, match="synchronous_commit"):
        await database.writes.rows("SELECT 1")
    await prepare_role(database_url)
    await pgbouncer.command(f"RECONNECT {_name(database_url)}")
    async with asyncio.timeout(10):
        while await _is_refused(database):
            await asyncio.sleep(0.02)
    await database.close()


async def test_a_statement_is_never_prepared(pooled: Database) -> None:
    """A statement runs many times, on whatever sessions, and no session keeps it."""
    async with pooled.loads.session() as one, pooled.lists.session() as other:
        for _ in range(12):
            await one.rows("SELECT 1")
            await other.rows("SELECT 1")
    assert await pooled.loads.rows("SELECT count(*) FROM pg_prepared_statements") == [(0,)]


async def test_lock_timeout_of_a_write(pooled: Database, database_url: str) -> None:
    """A write waits for a row as long as its share says, not as long as the role's settings do."""
    await execute(database_url, "INSERT INTO products (id, name, price_cents) VALUES ('mug', 'Mug', 1)")
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("UPDATE products SET stock = 1")
        async with pooled.writes.session() as session:
            began = asyncio.get_running_loop().time()
            with pytest.raises(LockTimeout):
                await session.pipeline(("BEGIN", None), ("SELECT FROM products FOR UPDATE", None))
            assert asyncio.get_running_loop().time() - began < 1.5  # the role's setting is 2 s


@pytest.mark.usefixtures("pgbouncer")
async def test_statement_mode_is_refused(servers_directory: Path, database_url: str) -> None:
    """A pooler that shares a session per statement has no transactions: its own words say so."""
    directory = servers_directory / f"statement-{_name(database_url)}"
    async with start_pgbouncer(directory, place_of(database_url), pool_mode="statement") as pooler:
        database = open_database(pooler.url(_name(database_url)), pooler="transaction", connections=5)
        with pytest.raises(DatabaseUnavailable, match="statement pooling"):
            await database.loads.rows("SELECT 1")
        await database.close()


async def test_pooler_that_no_setting_names(pgbouncer: PgBouncer, database_url: str) -> None:
    """Prepared statements of two clients meet in one session: the error names the setting."""
    database = open_database(pgbouncer.url(_name(database_url)), connections=5)

    async def run_often() -> None:
        for _ in range(12):
            await database.loads.rows("SELECT 1")
            await database.lists.rows("SELECT 1")

    with pytest.raises(DatabaseUnsuitable, match="LARDER_DATABASE_POOLER=transaction"):
        await run_often()
    await database.close()


async def test_pooler_is_recognised(pgbouncer: PgBouncer, database_url: str) -> None:
    """A pooler in transaction mode is told from a server."""
    for url, shared in ((database_url, False), (pgbouncer.url(_name(database_url)), True)):
        primary = Primary(url, pooled=True)
        async with await primary.open(TIMEOUT_MS) as connection:
            assert await shares_sessions(connection, partial(primary.open, TIMEOUT_MS)) is shared


async def test_migration_behind_a_pooler_is_refused(pgbouncer: PgBouncer, empty_database_url: str) -> None:
    """Nothing is changed, and no session keeps the lock of migrations."""
    with pytest.raises(DatabaseRefused, match="LARDER_MIGRATION_DATABASE_URL"):
        await upgrade(pgbouncer.url(_name(empty_database_url)))
    held = sql.SQL(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {} AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    assert await execute(empty_database_url, held.format(LOCK & 0xFFFFFFFF)) == [(0,)]
    assert await execute(empty_database_url, "SELECT to_regclass('products')") == [(None,)]


_RECORD = """
CREATE TABLE seen (level text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO seen VALUES (current_setting($$synchronous_commit$$)); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE ON cache_audits DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION note();
"""
_ARRAYS = table_queries.array_parameters([(PRODUCTS, "mine")])
_WRITES: Mapping[str, tuple[LiteralString, Parameters]] = {
    "announce": (table_queries.ANNOUNCE, {**_ARRAYS, "servers": ["red"], "ttl_s": 2.0, "max_ttl_s": 2.0, "margin_s": 0.05}),
    "complete": (table_queries.COMPLETE, {**_ARRAYS, "cycles": [0], "epochs": [""], "snapshot": ""}),
    "adopt": (table_queries.ADOPT, {**table_queries.parameters(PRODUCTS), "namespaces": ["mine"], "max_ttl_s": 2.0}),
}


@pytest.mark.parametrize(("present", "at_commit"), [("off", "on"), ("remote_apply", "remote_apply")])
async def test_audit_rows_are_durable(database_url: str, present: str, at_commit: str) -> None:
    """The statement itself turns ``synchronous_commit`` on for its commit; what is stronger stays."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as session:
        await session.execute(_RECORD.encode())
        for name, (statement, parameters) in _WRITES.items():
            await session.execute("SET synchronous_commit = on")
            await session.execute("DELETE FROM cache_audits")
            if name == "complete":
                await session.execute("INSERT INTO cache_audits (relation, namespace) VALUES ('products', 'mine')")
            await session.execute("DELETE FROM seen")
            await session.execute("SELECT set_config('synchronous_commit', %s, false)", [present])
            await session.execute(statement, parameters)
            assert await (await session.execute("SELECT level FROM seen")).fetchall() == [(at_commit,)], name


def test_every_parameter_is_set_somewhere() -> None:
    """What a session has without a pooler, the role has with one."""
    assert {**ANSWERS, **PLANS}.items() <= role_parameters({}).items()

"""Audits and truncations meet on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.rows import TupleRow

from app.cache.ports import Absent, Announced, AuditSource, Deferred, FenceLimits, Snapshot, Value, Watermark
from app.cache.postgres.table_audit import TableAuditSources
from app.cache.write_through import Status
from app.products.source import PRODUCTS
from tests.cache.rig import Process, until
from tests.harness.script import Gate
from tests.limits import open_database

LIMITS = FenceLimits(2_000, 2_000, 50)
Connection = psycopg.AsyncConnection[TupleRow]


@pytest.fixture
async def hand(database_url: str) -> AsyncIterator[Connection]:
    """Somebody with SQL; two products are there, one changed since `audit` saw it."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("INSERT INTO products (id, name, price_cents) VALUES ('mug', 'Mug', 1), ('cup', 'Cup', 1)")
        yield connection


@pytest.fixture
async def audit(database_url: str, namespace: str) -> AsyncIterator[AuditSource]:
    database = open_database(database_url, connections=1)
    async with TableAuditSources(database, PRODUCTS, namespace).open() as audit:
        yield audit
    await database.close()


async def held_up_or_done(database_url: str, task: "asyncio.Task[object]") -> None:
    """Return once somebody waits for a lock on the table, or nobody had to."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as watcher:

        async def seen() -> bool:
            found = await watcher.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'products'::regclass")
            return task.done() or await found.fetchone() is not None

        await until(seen)


async def look(audit: AuditSource) -> Watermark:
    """What an audit of everything so far leaves behind."""
    async with audit.snapshot(None, LIMITS, 10) as snapshot:
        return Watermark(snapshot.epoch, snapshot.xmin)


@pytest.mark.guarantee("R5")
async def test_truncated_between_snapshot_and_rows(hand: Connection, audit: AuditSource, database_url: str) -> None:
    """TRUNCATE, which empties a table for older snapshots too, waits until the audit has read its rows: none is lost on it."""
    since = await look(audit)
    await hand.execute("UPDATE products SET price_cents = 2 WHERE id = 'mug'")
    async with audit.snapshot(since, LIMITS, 10) as snapshot:
        truncation: asyncio.Task[object] = asyncio.create_task(hand.execute("TRUNCATE products"))
        await held_up_or_done(database_url, truncation)
        assert [tuple(row) async for page in snapshot.pages for row in page] == [("mug", 2)]
        assert snapshot.epoch == since.epoch
    await truncation
    assert (await look(audit)).epoch != since.epoch


async def test_truncated_table_is_not_vouched_for(process: Process, hand: Connection) -> None:
    """G4: the first cycle in a new epoch deletes the old fence, even while it may not set a new one."""
    await process.cache.read("mug")
    hit = await process.cache.read("mug")
    assert (type(hit.state), hit.status) == (Value, Status.HIT)
    await hand.execute("TRUNCATE products")
    cycle = await process.audit.cycle()
    assert cycle is not None
    assert not cycle.trusted
    gone = await process.cache.read("mug")
    assert (type(gone.state), gone.status) == (Absent, Status.BYPASS)
    await process.cache.drop("mug")  # or the inspection after the test finds it


@pytest.mark.guarantee("R5")
async def test_namespace_that_the_first_release_may_use(hand: Connection, database_url: str) -> None:
    """While 0.1.0 may run, which looks for no other namespace, one of its format keeps the trust, whatever its row says."""
    database = open_database(database_url, connections=1)
    async with TableAuditSources(database, PRODUCTS, "products~2").open() as audit:
        assert isinstance(await audit.announce("server", LIMITS), Announced)
        await hand.execute("DELETE FROM cache_audits WHERE namespace <> 'products~2'")
        await hand.execute("CREATE UNIQUE INDEX ix_cache_audits_namespace ON cache_audits (namespace)")
        assert isinstance(await audit.announce("server", LIMITS), Announced)
        await hand.execute("INSERT INTO cache_audits (namespace) VALUES ('products.1')")
        deferred = await audit.announce("server", LIMITS)
        assert isinstance(deferred, Deferred)
        assert "products.1 of the same table is trusted" in deferred.reason
        await hand.execute("DROP INDEX ix_cache_audits_namespace")
        assert isinstance(await audit.announce("server", LIMITS), Announced)
    await database.close()


@pytest.mark.guarantee("R5")
async def test_snapshot_under_a_truncation(hand: Connection, audit: AuditSource, database_url: str) -> None:
    """An audit that meets TRUNCATE under way waits for it first, and takes its snapshot then: it sees the new epoch."""
    since = await look(audit)
    read = Gate()

    async def take() -> Snapshot:
        async with audit.snapshot(since, LIMITS, 10) as snapshot:
            await read.enter()
            return snapshot

    async with hand.transaction():
        await hand.execute("TRUNCATE products")
        taking = asyncio.create_task(take())
        at_gate: asyncio.Task[object] = asyncio.create_task(read.arrival())
        await held_up_or_done(database_url, at_gate)
    read.open()
    snapshot = await taking
    await at_gate
    assert snapshot.epoch != since.epoch
    assert snapshot.epoch == (await look(audit)).epoch

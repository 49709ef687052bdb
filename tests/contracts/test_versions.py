"""Versions of a key never fall, however its row is deleted and inserted, for every kind of cached table."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import LiteralString

import psycopg
import psycopg.errors
import pytest
from psycopg.rows import TupleRow

from app.cache.ports import Absent, State, Value
from app.cache.postgres.table_source import TableRows, TableSource
from app.postgres.database import Database
from tests.contracts.entities import SUBJECTS, Subject
from tests.contracts.sources import prepare
from tests.limits import open_database

Connection = psycopg.AsyncConnection[TupleRow]
KEYED = sorted(name for name, subject in SUBJECTS.items() if subject.entity.tombstone is None)


@dataclass(frozen=True, slots=True)
class Table:
    """A cached table, two people who change it by hand, and what the cache reads."""

    subject: Subject
    one: Connection
    two: Connection
    database: Database

    async def run(self, who: Connection, statement: LiteralString, key: str = "mug") -> None:
        """Run one of the subject's statements."""
        await who.execute(statement, (self.subject.key(key),))

    async def state(self, key: str = "mug") -> State:
        """The state of a row as the cache loads it."""
        text = self.subject.entity.key_text(self.subject.key(key))
        return (await TableRows(self.database.loads, self.subject.entity).load([text]))[text]

    async def epoch(self) -> str:
        """The table's epoch."""
        return await TableSource(self.database.loads, self.subject.entity, "n").tell_epoch()


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]


@pytest.fixture
async def table(database_url: str, namespace: str, subject: Subject) -> AsyncIterator[Table]:
    await prepare(database_url, namespace, subject)
    database = open_database(database_url)
    connect = psycopg.AsyncConnection.connect
    async with await connect(database_url, autocommit=True) as one, await connect(database_url, autocommit=True) as two:
        yield Table(subject, one, two, database)
    await database.close()


async def waits(watcher: Connection, waiter: Connection) -> None:
    """Return once a connection waits for a lock."""
    statement = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    async with asyncio.timeout(5):
        while await (await watcher.execute(statement, (waiter.info.backend_pid,))).fetchone() is None:
            await asyncio.sleep(0.005)


async def test_insert_that_waits_for_a_deletion(table: Table) -> None:
    """It gets a version above the deletion's, or it fails; it never begins at 1 again."""
    await table.run(table.one, table.subject.change)
    await table.run(table.one, table.subject.change)
    async with table.one.transaction():
        await table.run(table.one, table.subject.delete)
        inserting = asyncio.create_task(table.run(table.two, table.subject.insert))
        await waits(table.one, table.two)
    if table.subject.entity.tombstone:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await inserting
        assert isinstance(await table.state(), Absent)
    else:
        await inserting
        assert isinstance(await table.state(), Value)
    assert (await table.state()).version == 3 + isinstance(await table.state(), Value)


async def test_insert_from_a_snapshot_before_the_deletion(table: Table) -> None:
    """A REPEATABLE READ transaction that did not see the deletion cannot insert the row again."""
    await table.run(table.one, table.subject.change)
    await table.two.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await table.two.execute("SELECT 1 FROM cache_generations")
    await table.run(table.one, table.subject.delete)
    with pytest.raises((psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation)):
        await table.run(table.two, table.subject.insert)
    await table.two.execute("ROLLBACK")
    assert await table.state() == Absent((await table.state()).key, await table.epoch(), 2)


async def test_deletion_that_is_rolled_back(table: Table) -> None:
    """It leaves row, version and epoch as they were."""
    await table.run(table.one, table.subject.change)
    before = await table.state()
    await table.one.execute("BEGIN")
    await table.run(table.one, table.subject.delete)
    await table.one.execute("ROLLBACK")
    assert await table.state() == before
    await table.run(table.one, table.subject.change)
    assert (await table.state()).version >= before.version + 1


async def test_versions_after_truncate(table: Table) -> None:
    """Rows that are inserted after a TRUNCATE begin above all versions before it, in another epoch."""
    for _ in range(4):
        await table.run(table.one, table.subject.change)
    before = await table.state()
    await table.one.execute(f"TRUNCATE {table.subject.entity.table}".encode())
    await table.run(table.one, table.subject.change, "jug")
    await table.run(table.one, table.subject.change)
    after = await table.state()
    assert after.version > before.version
    assert after.epoch != before.epoch
    if table.subject.entity.tombstone is None:
        assert (await table.state("jug")).version > before.version


async def test_version_is_never_set_lower_by_hand(table: Table) -> None:
    """An UPDATE that sets the version to less raises it all the same."""
    await table.run(table.one, table.subject.change)
    await table.one.execute(f"UPDATE {table.subject.entity.table} SET version = 1".encode())  # noqa: S608 - our own
    assert (await table.state()).version == 2


@pytest.mark.parametrize("subject", [SUBJECTS[name] for name in KEYED], ids=KEYED)
@pytest.mark.parametrize("statement", ["TRUNCATE cache_keys", "DELETE FROM cache_keys"])
async def test_forgotten_versions(table: Table, statement: LiteralString) -> None:
    """When the versions of deleted keys are forgotten a new epoch begins, in which no older slot counts."""
    await table.run(table.one, table.subject.change)
    await table.run(table.one, table.subject.delete)
    before = await table.state()
    await table.one.execute(statement)
    assert (before.version, (await table.state()).version) == (2, 0)
    assert await table.epoch() != before.epoch


@pytest.mark.parametrize("subject", [SUBJECTS[name] for name in KEYED], ids=KEYED)
async def test_insert_skipped_after_a_deletion(table: Table) -> None:
    """A deletion is audited even if an insert of the same transaction raised the key's version and was then skipped."""
    await table.run(table.one, table.subject.change)
    name = table.subject.entity.table
    columns = ", ".join(table.subject.entity.columns)
    await table.one.execute(f"CREATE UNIQUE INDEX ON {name} ({columns})".encode())
    await table.run(table.one, table.subject.insert.replace(" 0)", " 7)"), "jug")
    async with table.one.transaction():
        await table.run(table.one, table.subject.delete)
        await table.run(table.one, table.subject.insert.replace(" 0)", " 7)") + " ON CONFLICT DO NOTHING")
    cursor = await table.one.execute("SELECT key, gone FROM cache_keys WHERE relation = %s AND gone", (name,))
    assert await cursor.fetchall() == [(str(table.subject.key("mug")), True)]
    assert isinstance(await table.state(), Absent)
    assert (await table.state()).version == 3

"""Bringing a database up to date: metadata, order, the lock, and a database from the future."""

import asyncio

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.base import ischema_names

from app.postgres.errors import DatabaseFailed, DatabaseNewer, DatabaseUnavailable
from app.postgres.migrations import LOCK, VERSION_TABLE, script_directory, single_use_engine, upgrade
from app.products.tables import XID8, PgSnapshot, metadata
from tests.harness.servers import execute

OBJECTS = """
SELECT 'relation ' || relname || ' ' || relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    AND relname NOT LIKE 'larder_version%'
UNION ALL SELECT 'function ' || proname || ' ' || prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger ' || tgname || ' ' || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'check ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE 'larder_version%'
ORDER BY 1
"""


_AS_BEFORE = "CREATE TABLE alembic_version AS SELECT * FROM larder_version; DROP TABLE larder_version"


async def downgrade(url: str, revision: str = "base") -> None:
    """Take the migrations after ``revision`` back."""

    def run(connection: Connection) -> None:
        scripts, config = script_directory(), Config()
        config.attributes["connection"] = connection
        with EnvironmentContext(config, scripts, fn=lambda rev, _: scripts._downgrade_revs(revision, rev)):
            scripts.run_env()

    engine = single_use_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


async def test_metadata_equals_migrations(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alembic finds nothing to do between the tables in Python and the migrated database, types and defaults included."""
    # SQLAlchemy's register of types that it knows by name.
    monkeypatch.setitem(ischema_names, "xid8", XID8)
    monkeypatch.setitem(ischema_names, "pg_snapshot", PgSnapshot)

    def included(_object: object, name: str | None, *_: object) -> bool:
        # PostgreSQL reports an indexed expression without its collation, which Alembic then misses; the index is compared
        # by its whole definition below.
        return name != "ix_products_name"

    def compare(connection: Connection) -> list[object]:
        options = {
            "version_table": VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": True,
            "target_metadata": metadata,
            "include_object": included,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = single_use_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(compare) == []
    await engine.dispose()


async def test_checks_in_python_equal_those_of_the_migrations(database_url: str, empty_database_url: str) -> None:
    """Alembic does not compare CHECKs: a database made from the metadata has the very ones that the migrations make."""
    engine = single_use_engine(empty_database_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    constraints = """
        SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype <> 'n' AND conname NOT LIKE 'larder_version%' ORDER BY 1
    """
    columns = """
        SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name NOT LIKE 'larder_version%' ORDER BY 1, 2
    """
    indexes = """
        SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'larder_version' ORDER BY 1
    """
    for statement in (constraints, columns, indexes):
        made = await execute(database_url, statement)
        assert made
        assert await execute(empty_database_url, statement) == made


async def test_up_down_up(empty_database_url: str) -> None:
    """Down leaves nothing behind, up again makes the same schema, and once more changes nothing and says what it found."""
    assert await upgrade(empty_database_url) is None
    first = await execute(empty_database_url, OBJECTS)
    assert any(str(name).startswith("trigger zz_larder_change A") for [name] in first)
    await downgrade(empty_database_url)
    assert await execute(empty_database_url, OBJECTS) == []
    for found in (None, script_directory().get_current_head()):
        assert await upgrade(empty_database_url) == found
        assert await execute(empty_database_url, OBJECTS) == first


async def test_instances_start_together(empty_database_url: str) -> None:
    """If several migrate at once, one does the work; the others wait for it and find it done."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as instances:
        started = [instances.create_task(upgrade(empty_database_url)) for _ in range(4)]
    found = [instance.result() for instance in started]
    assert sorted(str(revision) for revision in found) == sorted(["None"] + 3 * [str(script_directory().get_current_head())])


async def test_upgrade_waits_for_the_lock(empty_database_url: str) -> None:
    """While somebody holds the lock nothing is migrated; the lock is free afterwards."""
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as holder:
        await holder.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        waiting = asyncio.create_task(upgrade(empty_database_url))
        queued: tuple[object, ...] | None = None
        async with asyncio.timeout(20):
            while queued is None:
                cursor = await holder.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                queued = await cursor.fetchone()
        assert await execute(empty_database_url, OBJECTS) == []
        await holder.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
        assert await waiting is None
    assert await execute(empty_database_url, f"SELECT pg_try_advisory_lock({LOCK})") == [(True,)]


async def test_database_from_the_future(database_url: str) -> None:
    """A database that a newer Larder migrated is refused, with a sentence for the operator, and stays as it is."""
    await execute(database_url, "UPDATE larder_version SET version_num = '9999'")
    before = await execute(database_url, OBJECTS)
    with pytest.raises(DatabaseNewer, match=r"9999.*[Nn]othing was changed"):
        await upgrade(database_url)
    assert await execute(database_url, OBJECTS) == before
    assert await execute(database_url, "SELECT version_num FROM larder_version") == [("9999",)]


@pytest.mark.parametrize("version", ["0001", "0002", "mlflow-7"])
async def test_another_programs_versions_are_not_ours(empty_database_url: str, version: str) -> None:
    """Another program's table of versions says nothing of our schema, even where its revision has the name of one of ours."""
    await execute(empty_database_url, f"CREATE TABLE alembic_version AS SELECT '{version}' AS version_num")
    assert await upgrade(empty_database_url) is None
    assert await execute(empty_database_url, "SELECT version_num FROM alembic_version") == [(version,)]
    assert await execute(empty_database_url, "SELECT count(*) FROM products") == [(0,)]


@pytest.mark.parametrize("earlier", ["0001", "0003", "0005"])
async def test_database_of_an_earlier_larder_is_taken_over(empty_database_url: str, earlier: str) -> None:
    """What a Larder up to 0.2 migrated goes on from there. Its own note is left for its instances that still start."""
    await upgrade(empty_database_url, earlier)
    await execute(empty_database_url, _AS_BEFORE)
    assert await upgrade(empty_database_url) == earlier
    head = script_directory().get_current_head()
    assert await execute(empty_database_url, "SELECT version_num FROM larder_version") == [(head,)]
    assert await execute(empty_database_url, "SELECT version_num FROM alembic_version") == [(earlier,)]
    assert await upgrade(empty_database_url) == head


async def test_tables_of_another_program_are_not_taken_over(empty_database_url: str) -> None:
    """A table named like one of ours, beside another program's versions, ends the migration; both stay as they were."""
    await execute(empty_database_url, "CREATE TABLE products (sku text)")
    await execute(empty_database_url, "CREATE TABLE alembic_version AS SELECT '0002' AS version_num")
    before = await execute(empty_database_url, OBJECTS)
    with pytest.raises(DatabaseFailed, match="already exists"):
        await upgrade(empty_database_url)
    assert await execute(empty_database_url, OBJECTS) == before


async def test_failed_migration_is_rolled_back(empty_database_url: str) -> None:
    """A migration that fails half way leaves the database as it was, and can be run again."""
    await execute(empty_database_url, "CREATE TABLE cache_audits (in_the_way int)")
    with pytest.raises(Exception, match="cache_audits"):
        await upgrade(empty_database_url)
    assert [name for [name] in await execute(empty_database_url, OBJECTS)] == ["relation cache_audits r"]
    await execute(empty_database_url, "DROP TABLE cache_audits")
    assert await upgrade(empty_database_url) is None


async def test_unreachable_database() -> None:
    """A server that is not there is said to be so."""
    with pytest.raises(DatabaseUnavailable):
        await upgrade("postgresql://larder@127.0.0.1:1/larder")

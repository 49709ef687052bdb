"""A PostgreSQL that tells nobody its timeline, as Aurora does: here, one whose role may not ask for it."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from app.cache.history import timeline_of
from app.cache.postgres.histories import choose, members
from app.cache.postgres.table_source import TableSource
from app.cache.write_through import Status
from app.doctor.findings import Verdict
from app.doctor.postgres_checks import PostgresChecks
from app.main import running
from app.postgres.errors import DatabaseFailed, DatabaseRefused
from app.postgres.migrations import upgrade
from app.postgres.primary import Primary
from app.products.commands import Create
from app.products.payload import SCHEMA
from app.products.product import Draft
from app.products.source import PRODUCTS
from app.settings import Settings
from tests.conftest import SessionPostgres
from tests.harness.script import PATIENCE_S
from tests.harness.servers import execute, new_name
from tests.limits import open_database


@pytest.fixture
async def refusing_url(postgres: SessionPostgres, empty_database_url: str) -> AsyncIterator[str]:
    """A database whose owner may not ask where the log is."""
    role = new_name()
    await execute(postgres.url, f"CREATE ROLE {role} LOGIN")
    await execute(empty_database_url, f"ALTER DATABASE {conninfo_to_dict(empty_database_url)['dbname']} OWNER TO {role}")
    await execute(empty_database_url, "REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM public")
    parts = urlsplit(empty_database_url)
    yield parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    await execute(empty_database_url, f"REASSIGN OWNED BY {role} TO postgres")
    await execute(empty_database_url, f"DROP OWNED BY {role}")
    await execute(postgres.url, f"DROP ROLE {role}")


async def test_start_time_stands_in_for_the_timeline(refusing_url: str, redis_url: str, namespace: str) -> None:
    """The migration finds it out once; the service is ready, its cache is used, and the doctor says what that costs."""
    await upgrade(refusing_url)
    given = {"DATABASE_URL": refusing_url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace, "ACCESS": "open"}
    given |= {"AUDIT_INTERVAL_MS": "50", "FENCE_TTL_MS": "300", "FENCE_TTL_MAX_MS": "300"}
    async with running(Settings.from_env({f"LARDER_{name}": value for name, value in given.items()})) as larder:
        await larder.products.write(Create(Draft("tray", "Tray", 100, 1)))
        async with asyncio.timeout(PATIENCE_S):
            while (await larder.products.get("tray")).status is not Status.HIT:
                await asyncio.sleep(0.01)
    database = open_database(refusing_url, connections=5)
    epoch = await TableSource(database.loads, PRODUCTS, namespace).tell_epoch()  # which is what /readyz asks
    assert timeline_of(epoch) is None
    assert await members(database, PRODUCTS) == (False, True)
    with pytest.raises(DatabaseFailed, match="timeline cannot be read"):
        await choose(database, PRODUCTS, by_start=False)
    await database.close()
    [found] = await _epoch_check(refusing_url)
    assert found == (Verdict.OK, found[1])
    assert "each restart starts the cache clean" in found[1]


async def test_right_that_is_taken_later(refusing_url: str, empty_database_url: str) -> None:
    """It is named as a right that is missing, not as a standby."""
    await upgrade(empty_database_url)
    role = str(conninfo_to_dict(refusing_url)["user"])
    await execute(empty_database_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    database = open_database(refusing_url, connections=5)
    with pytest.raises(DatabaseRefused, match="permission denied for function pg_current_wal_lsn"):
        await database.loads.rows("SELECT larder_epoch('products', 9)")
    await database.close()
    assert [verdict for verdict, _ in await _epoch_check(refusing_url)] == [Verdict.NO]


async def _epoch_check(url: str) -> list[tuple[Verdict, str]]:
    checks = PostgresChecks(Primary(url), timeout_ms=20_000, schema=SCHEMA, namespace="mine", connections=11)
    try:
        return [(found.verdict, found.sentence) for found in await checks.epoch()]
    finally:
        await checks.close()

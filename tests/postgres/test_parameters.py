"""One way to open a connection: what a URL says is kept, and what answers depend on is pinned, whoever sets something else."""

from urllib.parse import quote

import psycopg
import pytest

from app.postgres.errors import DatabaseOverloaded
from app.postgres.migrations import upgrade
from app.postgres.parameters import ANSWERS, LIMITS, PLANS
from app.postgres.primary import Primary
from tests.harness.servers import execute
from tests.limits import open_database

HOSTILE = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "60",
    "idle_session_timeout": "50",
    "plan_cache_mode": "force_custom_plan",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "jit": "on",
    "synchronous_commit": "off",
}


async def test_what_the_database_sets_changes_no_session(database_url: str) -> None:
    """Whatever the database sets, every share sees the parameters that Larder relies on, and writes are durable."""
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    for parameter, value in HOSTILE.items():
        await execute(database_url, f"ALTER DATABASE {name} SET {parameter} = '{value}'")
    database = open_database(database_url, connections=5)
    pinned = {**ANSWERS, **LIMITS, **PLANS}
    for share in (database.audit, database.loads, database.lists, database.writes, database.keys):
        found: dict[str, str | None] = dict(
            await share.rows(
                "SELECT n, current_setting(n, true) FROM unnest(%(names)s::text[]) AS n",
                {"names": [*pinned, "synchronous_commit"]},
            )
        )
        assert found.pop("synchronous_commit") == "on"
        limited = {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
        assert all(found.pop(limit) not in {"0", "60ms"} for limit in limited)
        assert {n: v for n, v in found.items() if v is not None} == {n: pinned[n] for n, v in found.items() if v is not None}
    assert (await database.lists.rows("SELECT timestamptz '2026-03-04 05:06:07+00'"))[0][0].day == 4
    await database.close()


@pytest.mark.parametrize("option", ["search_path=shop", "search_path=shop -c work_mem=8MB", "search_path=shop,public"])
async def test_options_of_the_url_are_kept(empty_database_url: str, option: str) -> None:
    """``options`` in the URL count for the migration and for every share alike."""
    await execute(empty_database_url, "CREATE SCHEMA shop")
    url = f"{empty_database_url}&options={quote(f'-c {option}')}"
    await upgrade(url)
    database = open_database(url, connections=5)
    assert await database.writes.rows("SELECT count(*) FROM products") == [(0,)]
    assert await database.loads.rows("SELECT to_regclass('shop.products')::text") == [("products",)]
    if "work_mem" in option:
        assert await database.lists.rows("SELECT current_setting('work_mem')") == [("8MB",)]
    await database.close()


async def test_name_and_keepalives_of_the_url_are_kept(database_url: str) -> None:
    """What is added gives way to what the URL says; without it a resting connection is kept alive."""
    named = await Primary(f"{database_url}&application_name=till&keepalives_idle=7").connect(timeout_ms=5_000)
    plain = await Primary(database_url).connect(timeout_ms=5_000)
    assert [one.info.get_parameters().get("keepalives_idle") for one in (named, plain)] == ["7", "30"]
    assert [one.info.parameter_status("application_name") for one in (named, plain)] == ["till", "larder"]
    await named.close()
    await plain.close()


async def test_database_without_a_free_connection_is_overloaded(database_url: str) -> None:
    """A login for which there is no connection left is load, not a server that is away."""
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    role = f"few_{name}"
    await execute(database_url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    database = open_database(database_url.replace("postgres@", f"{role}@"), connections=5)
    with pytest.raises(DatabaseOverloaded, match="too many connections"):
        await database.loads.rows("SELECT 1")
    await database.close()
    await execute(database_url, f"DROP ROLE {role}")

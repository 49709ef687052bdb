"""What the doctor says of a PostgreSQL: each fault is named with its cure, and a sound one has none."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict

from app.doctor.findings import Finding, Verdict, found_by
from app.doctor.postgres_checks import PostgresChecks
from app.postgres.migrations import script_directory
from app.postgres.primary import Primary
from app.products.payload import SCHEMA
from tests.conftest import SessionPostgres
from tests.harness.servers import beside, drop_database, execute, new_name

# The session's server is told to be careless.
_CARELESS = {"fsync is off", "full_page_writes is off"}
_ADVICE = "LC_CTYPE 'C.UTF-8' TEMPLATE template0"


async def _faults(url: str, *, connections: int = 11, namespace: str = "mine", buckets: str = "") -> list[Finding]:
    checks = PostgresChecks(
        Primary(url),
        timeout_ms=20_000,
        schema=SCHEMA,
        namespace=namespace,
        connections=connections,
        head=script_directory().get_current_head(),
        buckets=buckets,
    )
    found = [finding async for finding in found_by(checks.all(), 60)]
    await checks.close()
    assert {finding.check for finding in found} == {"Q1", "Q2", "Q3", "Q4", "Q5", "Q6"}
    careless = [one for one in found if one.sentence.partition(":")[0] in _CARELESS]
    assert all(one.needed for one in careless)
    return [one for one in found if one.verdict is not Verdict.OK and one not in careless]


def _name(url: str) -> str:
    return str(conninfo_to_dict(url)["dbname"])


@pytest.fixture
async def role(postgres: SessionPostgres) -> AsyncIterator[str]:
    """A role that owns nothing."""
    name = new_name()
    await execute(postgres.url, f"CREATE ROLE {name} LOGIN")
    yield name
    await execute(postgres.url, f"DROP ROLE {name}")


def _as(url: str, role: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()


async def test_buckets_of_the_settings_and_of_the_database(database_url: str) -> None:
    """After a move, the doctor says that the variable is out of date; while one is not finished, it says that."""
    await execute(database_url, "INSERT INTO pair_buckets (held) VALUES ('0-499')")
    assert await _faults(database_url, buckets="0-499") == []
    [found] = await _faults(database_url, buckets="0-511")
    assert found.needed
    assert "LARDER_BUCKETS is 0-511, and the database holds the buckets 0-499" in found.sentence
    [found] = await _faults(database_url)
    assert "LARDER_BUCKETS is not set" in found.sentence
    await execute(database_url, "UPDATE pair_buckets SET moving = '500-511'")
    [found] = await _faults(database_url, buckets="0-511")
    assert (found.needed, "the buckets 500-511 move" in found.sentence) == (False, True)


async def test_sound_database(database_url: str) -> None:
    """A migrated database on the primary has no fault."""
    assert await _faults(database_url) == []


async def test_database_that_nobody_migrated(empty_database_url: str) -> None:
    """Both checks that meet it say which command to run."""
    faults = await _faults(empty_database_url)
    assert {one.check for one in faults if "larder migrate" in one.sentence} >= {"Q2", "Q4"}


async def test_schema_of_an_earlier_release(database_url: str) -> None:
    """The two revisions are named."""
    await execute(database_url, "UPDATE larder_version SET version_num = '0002'")
    [fault] = await _faults(database_url)
    assert "the schema is at 0002" in fault.sentence
    assert "larder migrate" in fault.sentence


async def test_read_only_database(database_url: str) -> None:
    """A database that somebody made read-only is named as such, not as a standby."""
    await execute(database_url, f"ALTER DATABASE {_name(database_url)} SET default_transaction_read_only = on")
    [fault] = await _faults(database_url)
    assert fault.check == "Q1"
    assert "read-only" in fault.sentence


@pytest.mark.parametrize("trigger", ["zz_larder_change", "zz_larder_truncate"])
@pytest.mark.parametrize("state", ["DISABLE TRIGGER", "ENABLE TRIGGER"])
async def test_trigger_that_is_not_always_on(database_url: str, trigger: str, state: str) -> None:
    """The trigger is named, with the statement that repairs it."""
    await execute(database_url, f"ALTER TABLE products {state} {trigger}")
    [fault] = await _faults(database_url)
    repair = fault.sentence.rpartition("run: ")[2]
    assert repair == f"ALTER TABLE products ENABLE ALWAYS TRIGGER {trigger}"
    await execute(database_url, repair)
    assert await _faults(database_url) == []


async def test_rights_that_are_missing(database_url: str, role: str) -> None:
    """A role is told what it lacks; with the documented grants it lacks nothing."""
    await execute(database_url, f"GRANT SELECT ON products TO {role}")
    faults = await _faults(_as(database_url, role))
    assert any("GRANT INSERT, UPDATE ON products TO" in fault.sentence for fault in faults)
    for grant in (
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}",
    ):
        await execute(database_url, grant)
    assert await _faults(_as(database_url, role)) == []
    await execute(database_url, f"DROP OWNED BY {role}")


async def test_function_of_the_epoch_that_is_refused(database_url: str, role: str) -> None:
    """The member of the epoch that the role may not ask for is named."""
    await execute(database_url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    await execute(database_url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
    [fault] = await _faults(_as(database_url, role))
    assert "the system identifier is refused" in fault.sentence
    await execute(database_url, f"DROP OWNED BY {role}")


async def test_too_few_connections(database_url: str) -> None:
    """More connections than the server, the database or the role permits are advice, since not all may be needed."""
    [fault] = await _faults(database_url, connections=1_000)
    assert "may open 1000 connections" in fault.sentence
    assert not fault.needed
    await execute(database_url, f"ALTER DATABASE {_name(database_url)} CONNECTION LIMIT 7")
    [fault] = await _faults(database_url)
    assert "permits 7" in fault.sentence


@pytest.mark.parametrize("provider", ["libc", "builtin"])
@pytest.mark.parametrize("locale", ["C", "POSIX", "the one of the advice"])
async def test_names_in_ascii_only(postgres: SessionPostgres, provider: str, locale: str) -> None:
    """A database whose locale knows no other letters is named, and its search by name is so; the advice makes one that does."""
    given = f"LOCALE_PROVIDER {provider} LC_COLLATE 'C'"
    if locale == "the one of the advice":
        given += f" {_ADVICE}" + (" BUILTIN_LOCALE 'C.UTF-8'" if provider == "builtin" else "")
    else:
        given += f" LC_CTYPE '{locale}' TEMPLATE template0" + (" BUILTIN_LOCALE 'C'" if provider == "builtin" else "")
    name = new_name()
    await execute(postgres.url, f"CREATE DATABASE {name} {given}")
    try:
        url = beside(postgres.url, name)
        said = [one for one in await _faults(url) if "ignores case in a-z alone" in one.sentence]
        [(found,)] = await execute(url, "SELECT lower('ÄPFEL') = 'äpfel'")
        assert bool(said) is not found
        assert found is (locale == "the one of the advice")
        assert all(not one.needed and _ADVICE in one.sentence for one in said)
    finally:
        await drop_database(postgres.url, name)


async def test_namespace_that_has_the_trust(database_url: str) -> None:
    """Another namespace whose fence may live is named, with the command that takes the trust from it."""
    await execute(
        database_url,
        "INSERT INTO cache_audits (relation, namespace, epoch, fenced_until)"
        " VALUES ('products', 'theirs', 'x', clock_timestamp() + interval '1 hour')",
    )
    [fault] = await _faults(database_url)
    assert "larder namespace bar theirs" in fault.sentence
    assert not fault.needed


async def test_nobody_listens() -> None:
    """A server that is not there is unknown, check by check."""
    faults = await _faults("postgresql://larder@127.0.0.1:1/larder")
    assert {fault.verdict for fault in faults} == {Verdict.UNKNOWN}
    assert "refused" in faults[0].sentence

"""What the doctor and the commands say of a pooler in front of PostgreSQL, and that the cure cures."""

import argparse
import asyncio

import pytest
from psycopg.conninfo import conninfo_to_dict

from app.cli import migrate
from app.cli.environment import check_database
from app.cli.errors import CommandFailed
from app.doctor.findings import Verdict
from app.doctor.postgres_checks import PostgresChecks
from app.places import primary_of, role_limits
from app.products.payload import SCHEMA
from app.settings import Settings
from tests.harness.pgbouncer import PgBouncer, prepare_role
from tests.harness.servers import execute


def _settings(url: str, **others: str) -> Settings:
    return Settings.from_env({"LARDER_DATABASE_URL": url} | {f"LARDER_{name.upper()}": value for name, value in others.items()})


async def _session(settings: Settings) -> tuple[Verdict, bool, str]:
    """The doctor's verdict on what a session keeps."""
    checks = PostgresChecks(
        primary_of(settings),
        timeout_ms=10_000,
        schema=SCHEMA,
        namespace="mine",
        connections=11,
        role_limits=role_limits(settings),
    )
    try:
        [found] = await checks.session()
    finally:
        await checks.close()
    return found.verdict, found.needed, found.sentence


async def test_pooler_from_the_first_fault_to_the_last(
    pgbouncer: PgBouncer, database_url: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each sentence of the doctor and of the commands is followed to the letter; then nothing is left to say."""
    name = str(conninfo_to_dict(database_url)["dbname"])
    url = pgbouncer.url(name)
    verdict, _, sentence = await _session(_settings(url))
    assert verdict is Verdict.NO
    assert "LARDER_DATABASE_POOLER=transaction" in sentence

    pooled = {"database_pooler": "transaction"}
    verdict, _, sentence = await _session(_settings(url, **pooled))
    assert verdict is Verdict.NO
    assert "larder migrate" in sentence
    with pytest.raises(CommandFailed, match=r"DateStyle .* Run larder migrate"):
        await check_database(_settings(url, **pooled))
    with pytest.raises(CommandFailed, match="LARDER_MIGRATION_DATABASE_URL"):
        await check_database(_settings(url, **pooled), to_migrate=True)

    pooled["migration_database_url"] = database_url
    for variable, value in {"database_url": url, **pooled}.items():
        environment.setenv(f"LARDER_{variable.upper()}", value)
    assert await migrate.run(argparse.Namespace(finish=False)) == 0
    assert "RECONNECT" in capsys.readouterr().out

    await pgbouncer.command(f"RECONNECT {name}")
    async with asyncio.timeout(10):
        while (found := await _session(_settings(url, **pooled)))[0] is not Verdict.OK:
            await asyncio.sleep(0.02)
    assert "a pooler in transaction mode" in found[2]
    await check_database(_settings(url, **pooled))
    assert await migrate.run(argparse.Namespace(finish=False)) == 0
    assert "RECONNECT" not in capsys.readouterr().out


async def test_one_session_that_differs(pgbouncer: PgBouncer, database_url: str) -> None:
    """What another client left in a session of the server is found, with the name of the parameter."""
    name = str(conninfo_to_dict(database_url)["dbname"])
    await prepare_role(database_url)
    await execute(pgbouncer.url(name), "SET enable_nestloop = off")
    verdict, _, sentence = await _session(_settings(pgbouncer.url(name), database_pooler="transaction"))
    assert verdict is Verdict.NO
    assert "enable_nestloop is 'off'" in sentence
    await pgbouncer.command(f"RECONNECT {name}")


async def test_setting_without_a_pooler(database_url: str) -> None:
    """Transaction mode without a pooler works, and costs more than it has to: advice."""
    await prepare_role(database_url)
    verdict, needed, sentence = await _session(_settings(database_url, database_pooler="transaction"))
    assert (verdict, needed) == (Verdict.NO, False)
    assert "LARDER_DATABASE_POOLER=none" in sentence

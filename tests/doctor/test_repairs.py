"""Set-ups that are broken on purpose: what the doctor says of each, and that who follows the sentence has repaired it."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio
from psycopg.conninfo import conninfo_to_dict

from app.cli import parse
from tests.conftest import SessionPostgres
from tests.harness.redis_user import documented_rules
from tests.harness.servers import execute, new_name

MakeUser = Callable[[list[str]], Awaitable[str]]
Settings = Mapping[str, str]
_CARELESS = ("fsync is off", "full_page_writes is off")
"""What is wrong with the session's server on purpose."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a broken set-up is made of."""

    database_url: str
    empty_database_url: str
    redis_url: str
    make_user: MakeUser
    role: str

    @property
    def sound(self) -> Settings:
        """Settings with which nothing is broken, and a slow machine is not taken for a slow network."""
        return {
            "LARDER_DATABASE_URL": self.database_url,
            "LARDER_REDIS_URL": self.redis_url,
            "LARDER_REDIS_TIMEOUT_MS": "10000",
        }

    @property
    def database(self) -> str:
        """The name of the database."""
        return str(conninfo_to_dict(self.database_url)["dbname"])


Repair = Callable[[Place, str, Settings], Awaitable[Settings]]


@dataclass(frozen=True, slots=True)
class Broken:
    """A set-up, the check that meets it and what that says, and what an operator does who has read only this."""

    check: str
    says: str
    spoil: Callable[[Place], Awaitable[Settings]]
    repair: Repair


async def _sound(place: Place, _said: str, settings: Settings) -> Settings:
    """Correct the setting that is named."""
    return {**settings, **place.sound}


async def _wrong_password(place: Place) -> Settings:
    url = await place.make_user(documented_rules())
    return {**place.sound, "LARDER_REDIS_URL": url.replace(":pw@", ":other@")}


async def _usual_rights(place: Place) -> Settings:
    return {**place.sound, "LARDER_REDIS_URL": await place.make_user(["on", "~*", "+@all", "-@dangerous"])}


async def _other_keys(place: Place) -> Settings:
    rules = [rule for rule in documented_rules() if not rule.startswith("~")]
    return {**place.sound, "LARDER_REDIS_URL": await place.make_user([*rules, "~shop:*"])}


async def _give_rights(place: Place, said: str, settings: Settings) -> Settings:
    found = re.search(r"lacks (.*?)\. Add this to it with ACL SETUSER", said)
    assert found is not None
    async with redis.asyncio.Redis.from_url(place.redis_url) as client:
        user = urlsplit(settings["LARDER_REDIS_URL"]).username
        await client.execute_command("ACL", "SETUSER", user, *found[1].split())  # type: ignore[no-untyped-call]
    return settings


async def _redis_away(place: Place) -> Settings:
    return {**place.sound, "LARDER_REDIS_URL": "redis://127.0.0.1:1/0"}


async def _postgres_away(place: Place) -> Settings:
    return {**place.sound, "LARDER_DATABASE_URL": "postgresql://larder@127.0.0.1:1/larder"}


async def _absent_database(place: Place) -> Settings:
    return {**place.sound, "LARDER_DATABASE_URL": place.database_url.replace(place.database, "nowhere")}


async def _no_tables(place: Place) -> Settings:
    return {**place.sound, "LARDER_DATABASE_URL": place.empty_database_url}


async def _run_what_is_named(_place: Place, said: str, settings: Settings) -> Settings:
    found = re.search(r"Run: larder (\w+)", said)
    assert found is not None
    command, parsed = parse([found[1]])  # the environment has the settings
    assert await command.run(parsed) == 0
    return settings


async def _read_only(place: Place) -> Settings:
    await execute(place.database_url, f"ALTER DATABASE {place.database} SET default_transaction_read_only = on")
    return place.sound


async def _reset(place: Place, said: str, settings: Settings) -> Settings:
    found = re.search(r"ALTER DATABASE … (RESET \w+)", said)
    assert found is not None
    server = place.database_url.replace(place.database, "postgres")
    await execute(server, f"ALTER DATABASE {place.database} {found[1]}")
    return settings


async def _trigger_off(place: Place) -> Settings:
    await execute(place.database_url, "ALTER TABLE products DISABLE TRIGGER zz_larder_change")
    return place.sound


async def _run_sql(place: Place, said: str, settings: Settings) -> Settings:
    await execute(place.database_url, said.rpartition("run: ")[2])
    return settings


async def _no_grants(place: Place) -> Settings:
    await execute(place.database_url, f"GRANT SELECT ON products TO {place.role}")
    parts = urlsplit(place.database_url)
    url = parts._replace(netloc=f"{place.role}@{parts.netloc.rpartition('@')[2]}").geturl()
    return {**place.sound, "LARDER_DATABASE_URL": url}


async def _grant(place: Place, said: str, settings: Settings) -> Settings:
    for statement in said.partition("tables: ")[2].split("; "):
        await execute(place.database_url, statement)
    return settings


async def _few_connections(place: Place) -> Settings:
    await execute(place.database_url, f"ALTER DATABASE {place.database} CONNECTION LIMIT 7")
    return place.sound


async def _fewer_used(_place: Place, said: str, settings: Settings) -> Settings:
    assert "lower LARDER_DATABASE_CONNECTIONS" in said
    return {**settings, "LARDER_DATABASE_CONNECTIONS": "5"}


BROKEN = {
    "password": Broken("D1", "Correct the URL or the password of LARDER_REDIS_URL", _wrong_password, _sound),
    "usual rights": Broken("D5", "lacks +info", _usual_rights, _give_rights),
    "keys of others": Broken("D5", "lacks ~wtc:* ~wtc-*", _other_keys, _give_rights),
    "no Redis": Broken("D1", "Start it, or correct LARDER_REDIS_URL", _redis_away, _sound),
    "no PostgreSQL": Broken("Q1", "Start it, or correct LARDER_DATABASE_URL", _postgres_away, _sound),
    "no database": Broken("Q1", 'database "nowhere" does not exist', _absent_database, _sound),
    "no tables": Broken("Q2", "there are no tables of Larder here", _no_tables, _run_what_is_named),
    "read only": Broken("Q1", "the database is read-only for this role", _read_only, _reset),
    "trigger off": Broken("Q2", "trigger zz_larder_change is missing or not ENABLE ALWAYS", _trigger_off, _run_sql),
    "no grants": Broken("Q4", "the role lacks", _no_grants, _grant),
    "few connections": Broken("Q4", "may open 11 connections", _few_connections, _fewer_used),
}


@pytest.fixture
async def place(
    database_url: str, empty_database_url: str, redis_url: str, user_url: MakeUser, postgres: SessionPostgres
) -> AsyncIterator[Place]:
    role = new_name()
    await execute(postgres.url, f"CREATE ROLE {role} LOGIN")
    yield Place(database_url, empty_database_url, redis_url, user_url, role)
    await execute(database_url, f"DROP OWNED BY {role}")
    await execute(postgres.url, f"DROP ROLE {role}")


async def _faults(
    settings: Settings, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """What ``larder doctor`` finds wrong with these settings."""
    for name, value in settings.items():
        environment.setenv(name, value)
    command, parsed = parse(["doctor", "--json"])
    capsys.readouterr()
    status = await command.run(parsed)
    found = [one for one in json.loads(capsys.readouterr().out) if one["verdict"] != "ok"]
    assert status == (1 if any(one["verdict"] == "no" and one["needed"] for one in found) else 2 if found else 0)
    return [one for one in found if not one["sentence"].startswith(_CARELESS)]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_the_sentence_is_enough_to_repair_it(
    broken: Broken, place: Place, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check names the fault; after what its sentence tells to do, nothing is found wrong."""
    settings = await broken.spoil(place)
    faults = await _faults(settings, environment, capsys)
    said = next(one["sentence"] for one in faults if one["check"] == broken.check)
    assert broken.says in said
    settings = await broken.repair(place, said, settings)
    assert await _faults(settings, environment, capsys) == []

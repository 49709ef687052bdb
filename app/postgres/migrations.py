"""Bringing a database's schema up to this code, by one instance at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.postgres.database import single_use_engine
from app.postgres.errors import DatabaseFailed, DatabaseNewer, DatabaseRefused, DatabaseUnavailable, translate

LOCK = 0x6C6172646572  # "larder"
"""The advisory lock under which instances that start together migrate one after another."""


def script_directory() -> ScriptDirectory:
    """The migrations: beside the package in a checkout, inside of it when installed."""
    package = Path(__file__).parent
    for folder in (package.parent.parent / "alembic", package / "alembic"):
        if (folder / "env.py").is_file():
            config = Config()
            config.set_main_option("script_location", str(folder))
            return ScriptDirectory.from_config(config)
    raise DatabaseFailed("the migrations are missing from this installation")


async def upgrade(database_url: str, revision: str = "head") -> str | None:
    """Migrate to ``revision``; return the revision found before (``None`` for an empty database).

    Raises:
        DatabaseUnavailable: not reachable, or it refuses this user, or is of an encoding other than UTF-8.
        DatabaseNewer: migrated by a newer Larder; nothing was touched.
        DatabaseFailed: a migration failed; it was rolled back.
    """
    async with _migrating(database_url) as connection:
        encoding = await connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise DatabaseRefused(
                f"the database's encoding is {encoding}, which cannot hold every name; nothing was changed."
                " Create one with: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )
        found = await connection.run_sync(_upgrade, revision)
        await connection.commit()
        return found


async def payload_schema(database_url: str, relation: str) -> int:
    """The number of the payload's schema in the database, by which all instances go. Raises as ``upgrade``."""
    async with _migrating(database_url) as connection:
        statement = text("SELECT payload_schema FROM cache_generations WHERE relation = :relation")
        return int(await connection.scalar(statement, {"relation": relation}) or 0)


async def finish(database_url: str, relation: str, schema: int) -> bool:
    """End a rolling deploy: raise the payload's schema to ``schema``, so that older releases refuse to work from now on.

    Returns whether there was anything to finish. Raises as ``upgrade``; then nothing was changed.
    """
    async with _migrating(database_url) as connection:
        # The lock on the table waits for writes under way, and holds new ones up meanwhile: not for long.
        await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        statement = text("SELECT larder_finish(:relation, :schema)")
        done = bool(await connection.scalar(statement, {"relation": relation, "schema": schema}))
        await connection.commit()
        return done


@asynccontextmanager
async def _migrating(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection that has the lock under which instances migrate one after another."""
    engine = single_use_engine(database_url)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            await connection.commit()
            yield connection
    except exc.DBAPIError as error:
        raise (translate(error.orig) if isinstance(error.orig, psycopg.Error) else DatabaseFailed(str(error))) from error
    except psycopg.Error as error:
        raise translate(error) from error
    except OSError as error:
        raise DatabaseUnavailable(str(error)) from error
    finally:
        await engine.dispose()  # ends the session, and with it the lock


def _upgrade(connection: Connection, revision: str) -> str | None:
    scripts = script_directory()
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise DatabaseNewer(
            f"the database is at revision {current}, which this Larder (up to {scripts.get_current_head()}) does not know;"
            " nothing was changed. Run the Larder that migrated it, or a newer one."
        )
    config = Config()
    config.attributes["connection"] = connection
    with EnvironmentContext(
        config,
        scripts,
        fn=lambda rev, _context: scripts._upgrade_revs(revision, rev),  # noqa: SLF001 - alembic's own recipe for programmatic upgrades
    ):
        scripts.run_env()
    return current

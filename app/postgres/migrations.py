"""Bringing a database's schema up to this code, by one instance at a time."""

from pathlib import Path

import psycopg
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, exc, text

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
    engine = single_use_engine(database_url)
    try:
        async with engine.connect() as connection:
            encoding = await connection.scalar(text("SHOW server_encoding"))
            if encoding != "UTF8":
                raise DatabaseRefused(
                    f"the database's encoding is {encoding}, which cannot hold every name; nothing was changed."
                    " Create one with: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
                )
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            await connection.commit()
            found = await connection.run_sync(_upgrade, revision)
            await connection.commit()
            return found
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

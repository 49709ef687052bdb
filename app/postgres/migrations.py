"""Migrates a database to the schema that this release needs, by one instance at a time."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import psycopg
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from .connection import Connection as PsycopgConnection
from .errors import DatabaseFailed, DatabaseNewer, DatabaseRefused, DatabaseUnavailable, LockTimeout, translate
from .pooler import shares_sessions
from .primary import Primary

LOCK = 0x6C6172646572  # "larder"
"""The advisory lock under which instances that start together migrate one after another."""
_FINISH = text("SELECT larder_finish(:relation, :schema)")

VERSION_TABLE = "larder_version"
"""The table that says at which revision the schema is. Other programs that migrate with Alembic use its default name."""

_FOREIGN_TABLE = "alembic_version"
"""Where a Larder up to 0.2 said so. It is left behind, for instances of that release that start during the deploy."""

_EARLIER = text(
    """
    SELECT v.version_num FROM alembic_version v WHERE to_regclass('larder_version') IS NULL
        AND to_regclass('cache_audits') IS NOT NULL AND to_regclass('cache_generations') IS NOT NULL
        AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass('products') AND tgname = 'zz_larder_change')
    """
)
"""The revision at which an earlier Larder left this schema; no row if what is here is not Larder's."""

_TIMEOUT_MS = 10_000
"""Deadline for opening a connection."""
LOCK_WAIT_S = 2
"""How long a migration waits for a table. Other users of the table wait behind it, so this must be short."""

_NOT_VALIDATED = """
SELECT conrelid::regclass::text, quote_ident(conname) FROM pg_constraint
WHERE contype = 'c' AND NOT convalidated AND connamespace = current_schema()::regnamespace ORDER BY 1, 2
"""
"""The CHECKs that hold for new rows, and of which nobody has shown that they hold for the old ones."""

_IN_THE_WAY = """
SELECT format('process %s (%s, %s for %s s)',
    a.pid, coalesce(nullif(a.application_name, ''), a.usename, a.backend_type), a.state,
    round(extract(epoch FROM clock_timestamp() - a.xact_start)))
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND a.datname = current_database() AND a.xact_start IS NOT NULL AND EXISTS (
    SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE l.pid = a.pid AND l.granted AND n.nspname = current_schema()
)
ORDER BY a.xact_start LIMIT 3
"""
"""The oldest transactions that use tables of this schema; one of them held the lock that the migration waited for."""


def script_directory() -> ScriptDirectory:
    """Return the directory of the migrations, which is beside the package in a checkout and inside it when installed."""
    package = Path(__file__).parent
    for folder in (package.parent.parent / "alembic", package / "alembic"):
        if (folder / "env.py").is_file():
            config = Config()
            config.set_main_option("script_location", str(folder))
            return ScriptDirectory.from_config(config)
    raise DatabaseFailed("the migrations are missing from this installation")


def single_use_engine(primary: Primary | str, *, timeout_ms: int = _TIMEOUT_MS) -> AsyncEngine:
    """Return an engine without a pool, for work that runs once, such as migrations."""
    primary = Primary(primary) if isinstance(primary, str) else primary
    return create_async_engine(
        "postgresql+psycopg://", async_creator=partial(primary.connect, timeout_ms=timeout_ms), poolclass=NullPool
    )


async def upgrade(primary: Primary | str, revision: str = "head", *, schemas: Mapping[str, int] | None = None) -> str | None:
    """Migrate to ``revision``; return the revision found before (``None`` for an empty database).

    In an empty database, ``schemas`` sets each relation's payload schema at once: no older release uses it.

    Raises:
        LockTimeout: a table that had to be changed was in use for longer than ``LOCK_WAIT_S``; nothing was changed.
        DatabaseUnavailable: it is not reachable, refuses this user, or has another encoding than UTF-8.
        DatabaseNewer: it was migrated by a newer Larder; nothing was touched.
        DatabaseFailed: a migration failed; it was rolled back.
    """
    async with _locked_connection(primary) as connection:
        encoding = await connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise DatabaseRefused(
                f"the database's encoding is {encoding}, which cannot hold every name; nothing was changed."
                " Create one with: CREATE DATABASE ... ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' TEMPLATE template0"
            )
        await _limit_lock_wait(connection)
        found = await connection.run_sync(_upgrade, revision)
        if found is None:
            for relation, schema in (schemas or {}).items():
                await connection.execute(_FINISH, {"relation": relation, "schema": schema})
        await connection.commit()
        await _validate(connection)
        return found


async def payload_schema(primary: Primary | str, relation: str) -> int:
    """Return the number of the payload's schema in the database, which all instances use. Raises as ``upgrade``."""
    async with _locked_connection(primary) as connection:
        statement = text("SELECT payload_schema FROM cache_generations WHERE relation = :relation")
        return int(await connection.scalar(statement, {"relation": relation}) or 0)


async def finish(primary: Primary | str, relation: str, schema: int) -> bool:
    """End a rolling deploy: raise the payload's schema to ``schema``, so that older releases refuse to work from now on.

    Returns whether there was anything to finish. Raises as ``upgrade``; then nothing was changed.
    """
    async with _locked_connection(primary) as connection:
        await _limit_lock_wait(connection)
        done = bool(await connection.scalar(_FINISH, {"relation": relation, "schema": schema}))
        await connection.commit()
        return done


async def _validate(connection: AsyncConnection) -> None:
    """Check the rows of CHECKs that migrations added NOT VALID. Readers and writers of the tables go on meanwhile."""
    for table, constraint in (await connection.execute(text(_NOT_VALIDATED))).all():
        await _limit_lock_wait(connection)
        await connection.execute(text(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}"))
        await connection.commit()


async def _limit_lock_wait(connection: AsyncConnection) -> None:
    await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))


@asynccontextmanager
async def _locked_connection(primary: Primary | str) -> AsyncIterator[AsyncConnection]:
    """Open a connection that holds the lock under which instances migrate one after another."""
    engine = single_use_engine(primary)
    try:
        async with engine.connect() as connection:
            await _check_own_session(connection, primary)
            await connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            await connection.commit()
            try:
                yield connection
            except exc.DBAPIError as error:
                if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                    raise
                await connection.rollback()
                raise LockTimeout(await _lock_holders(connection)) from error
    except exc.DBAPIError as error:
        raise (translate(error.orig) if isinstance(error.orig, psycopg.Error) else DatabaseFailed(str(error))) from error
    except psycopg.Error as error:
        raise translate(error) from error
    except OSError as error:
        raise DatabaseUnavailable(str(error)) from error
    finally:
        await engine.dispose()  # ends the session, and with it the lock


async def _check_own_session(connection: AsyncConnection, primary: Primary | str) -> None:
    """Raise ``DatabaseRefused`` if the lock would stay behind in a session that other clients use, too."""
    primary = Primary(primary) if isinstance(primary, str) else primary
    own = (await connection.get_raw_connection()).driver_connection
    if await shares_sessions(cast("PsycopgConnection", own), partial(primary.open, timeout_ms=_TIMEOUT_MS)):
        raise DatabaseRefused(
            "a pooler in transaction mode is in front of PostgreSQL, and keeps no lock of a session; nothing was changed. Let"
            " LARDER_MIGRATION_DATABASE_URL lead to PostgreSQL itself"
        )


async def _lock_holders(connection: AsyncConnection) -> str:
    found = (await connection.execute(text(_IN_THE_WAY))).scalars().all()
    users = f"transactions that use the tables now, the oldest first: {'; '.join(found)}" if found else "none can be seen now"
    return (
        f"a table was in use by another transaction for more than {LOCK_WAIT_S} s ({users}). Nothing was changed, and"
        " instances that run go on as before. Wait until that transaction ends, or end it with pg_terminate_backend(process),"
        " and try again"
    )


def _upgrade(connection: Connection, revision: str) -> str | None:
    scripts = script_directory()
    current = _current(connection) or _take_over(connection, scripts)
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


def _context(connection: Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})


def _current(connection: Connection) -> str | None:
    return _context(connection).get_current_revision()


def _take_over(connection: Connection, scripts: ScriptDirectory) -> str | None:
    """Note the revision at which an earlier Larder left the database, if one did."""
    if not connection.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": _FOREIGN_TABLE}):
        return None
    found: str | None = connection.scalar(_EARLIER)
    if found is not None and found in {script.revision for script in scripts.walk_revisions()}:
        _context(connection).stamp(scripts, found)
    return found

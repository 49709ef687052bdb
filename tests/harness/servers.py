"""The servers of the tests: a directory for private ones, and databases that exist for one test."""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from psutil import virtual_memory
from psycopg import sql

from app.private_servers import PrivateServerError, ServerDirectory
from app.private_servers.process import end_orphan, orphan

_PATIENCE_S = 5.0
_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory with its owner's id is made in it, as in the temporary one
_PLENTY_BYTES = 8 * 2**30
_PID_FILES = ("postmaster.pid", "redis.pid", "pgbouncer.pid")


@asynccontextmanager
async def session_directory(*, in_memory: bool = False) -> AsyncIterator[Path]:
    """Return a locked directory of this session. Directories of dead sessions are removed, and their servers stopped.

    With ``in_memory`` it is in memory where there is plenty: nothing that is written must then have to reach a disk.
    """
    base = (_memory() if in_memory else Path(tempfile.gettempdir())) / f"larder-tests-{os.getuid()}"
    base.mkdir(mode=0o711, exist_ok=True)
    with base.with_suffix(".lock").open("w") as gate:
        # One session at a time: a directory that was made and is not locked yet looks like that of a dead session.
        fcntl.flock(gate, fcntl.LOCK_EX)
        for left_over in base.iterdir():
            await _reclaim(left_over)
        own = ServerDirectory(base / uuid4().hex[:12])
    with own:
        yield own.path
        shutil.rmtree(own.path, ignore_errors=True)


def _memory() -> Path:
    """Return a directory in memory if there is plenty, because each database is 300 files; else the usual one."""
    with suppress(OSError):
        if "TMPDIR" not in os.environ and min(shutil.disk_usage(_MEMORY).free, virtual_memory().available) >= _PLENTY_BYTES:
            return _MEMORY
    return Path(tempfile.gettempdir())


async def _reclaim(directory: Path) -> None:
    try:
        locked = ServerDirectory(directory)
    except PrivateServerError:
        return
    with locked:
        for pid_file in (path for name in _PID_FILES for path in directory.rglob(name)):
            if (process := orphan(pid_file, pid_file.parent)) is not None:
                await end_orphan(process, signal.SIGINT, patience_s=_PATIENCE_S)
        shutil.rmtree(directory, ignore_errors=True)


def new_name() -> str:
    """Return a database name that no other session has. Its prefix shows that it belongs to the tests."""
    return f"larder_test_{uuid4().hex[:16]}"


def beside(url: str, database: str) -> str:
    """Return the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def create_database(url: str, name: str, *, template: str = "template1", strategy: str = "") -> str:
    """Create a database on the server of ``url`` and return its URL. The server copies its own way if no strategy is named."""
    how = sql.SQL(" STRATEGY {}").format(sql.Identifier(strategy)) if strategy else sql.SQL("")
    names = sql.Identifier(name), sql.Identifier(template)
    await execute(url, sql.SQL("CREATE DATABASE {} TEMPLATE {}{}").format(*names, how))
    return beside(url, name)


async def drop_database(url: str, name: str) -> None:
    """Drop a database, even while others are connected to it."""
    await execute(url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


async def execute(url: str, statement: str | sql.Composed) -> list[tuple[Any, ...]]:
    """Run a statement by hand, as somebody who knows nothing of Larder; return its rows."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode() if isinstance(statement, str) else statement)
        return await cursor.fetchall() if cursor.description else []


async def know_history(url: str, namespace: str) -> None:
    """Tell a database that nobody ever set a fence for a namespace."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO cache_audits (namespace, epoch) VALUES (%s, larder_epoch('products', 3))"
            " ON CONFLICT (relation, namespace, partition) DO UPDATE SET epoch = excluded.epoch",
            (namespace,),
        )

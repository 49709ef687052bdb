"""Real servers for every test that asks for one.

Commits are real: each test gets a database of its own, cloned from one that was migrated once, and a cache namespace of
its own. A test that stops, kills or pauses a server asks for a private one.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
import redis.asyncio

from app.private_servers import PostgresServer, RedisServer, start_postgres, start_redis
from tests.servers.databases import create_database, drop_database, know_history, new_name
from tests.servers.directory import session_directory

# A killed test session loses its databases anyway, so nothing has to reach the disk.
_NO_DISK = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}

_namespace_numbers = count(1)


@dataclass(frozen=True, slots=True)
class SessionPostgres:
    """The session's PostgreSQL; a test creates what it needs beside `url`, and never stops the server."""

    url: str


@pytest.fixture(scope="session")
def session_mark() -> str:
    """What the names of this session begin with, on servers that others use too."""
    return f"t{uuid4().hex[:10]}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers_directory() -> AsyncIterator[Path]:
    async with session_directory() as directory:
        yield directory


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(servers_directory: Path) -> AsyncIterator[SessionPostgres]:
    if given := os.environ.get("LARDER_DATABASE_URL"):
        yield SessionPostgres(given)
        return
    server = await start_postgres(servers_directory / "postgres", options=_NO_DISK)
    yield SessionPostgres(server.url)
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_template(postgres: SessionPostgres) -> AsyncIterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = new_name()
    await _migrate(await create_database(postgres.url, name))
    yield name
    await drop_database(postgres.url, name)


@pytest.fixture
async def database_url(postgres: SessionPostgres, migrated_template: str, namespace: str) -> AsyncIterator[str]:
    """A migrated, empty database of the test's own, whose audit row knows that the test's namespace was never fenced.

    Without that row the first audit would wait for the longest fence that an earlier history could have left.
    """
    name = new_name()
    url = await create_database(postgres.url, name, template=migrated_template)
    await know_history(url, namespace)
    yield url
    await drop_database(postgres.url, name)


@pytest.fixture
async def empty_database_url(postgres: SessionPostgres) -> AsyncIterator[str]:
    """A database of the test's own that no migration has seen."""
    name = new_name()
    yield await create_database(postgres.url, name)
    await drop_database(postgres.url, name)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_url(servers_directory: Path, session_mark: str) -> AsyncIterator[str]:
    """The session's Redis; a test keeps to its `namespace` and never empties, stops or fills the server."""
    if given := os.environ.get("LARDER_REDIS_URL"):
        yield given
        await _forget(given, session_mark)
        return
    server = await start_redis(servers_directory / "redis")
    yield server.url
    await server.stop()


@pytest.fixture
def namespace(session_mark: str) -> str:
    """A cache namespace of the test's own."""
    return f"{session_mark}.{next(_namespace_numbers)}"


@pytest.fixture
async def private_redis(servers_directory: Path) -> AsyncIterator[RedisServer]:
    """A Redis that the test may pause, kill and restart."""
    server = await start_redis(servers_directory / f"redis-{uuid4().hex[:8]}")
    yield server
    await server.stop()


@pytest.fixture
async def private_postgres(servers_directory: Path) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL, its database migrated, that the test may pause, kill and restart."""
    server = await start_postgres(servers_directory / f"postgres-{uuid4().hex[:8]}", options=_NO_DISK)
    try:
        await _migrate(server.url)
        yield server
    finally:
        await server.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The process environment without any LARDER_* variable, put back after the test."""
    for name in [name for name in os.environ if name.startswith("LARDER_")]:
        monkeypatch.delenv(name)
    return monkeypatch


async def _migrate(url: str) -> None:
    # Tests of rules without I/O run without the database layer.
    from app.postgres.migrations import upgrade  # noqa: PLC0415 - see above

    await upgrade(url)


async def _forget(url: str, session_mark: str) -> None:
    client = redis.asyncio.Redis.from_url(url)
    try:
        async for key in client.scan_iter(match=f"*{session_mark}*", count=1_000):
            await client.unlink(key)
    finally:
        await client.aclose()

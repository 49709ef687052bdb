"""Real servers for every test that asks for one.

Commits are real: each test gets a database of its own, cloned from one that was migrated once, and a cache namespace of
its own. A test that stops, kills or pauses a server asks for a private one.

TESTS_POSTGRES names a directory with the programs of another PostgreSQL, and TESTS_REDIS the program of another Redis. With
TESTS_POOLER a PgBouncer in transaction mode is in front of PostgreSQL, and tests connect to it where Larder would.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
import redis.asyncio

from app.private_servers import PostgresServer, RedisServer, start_postgres, start_redis
from tests.harness.pgbouncer import PgBouncer, pgbouncer_program, place_of, prepare_role, start_pgbouncer
from tests.harness.redis_cluster import RedisCluster, start_redis_cluster
from tests.harness.servers import create_database, drop_database, know_history, new_name, session_directory

# A killed test session loses its databases anyway, so nothing has to reach the disk.
_NO_DISK = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}

ON_BOTH_LOOPS = {"contracts", "postgres"}
"""The suites of what speaks to a server itself."""
AS_IN_PRODUCTION = {"cache", "products", "schedules"}
"""The other suites that use real connections within the test's own process. They run on uvloop where it is installed."""

_namespace_numbers = count(1)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on asyncio's event loop; those of two sets, but for slow ones, also or only on uvloop."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    suite = item.path.parent.name
    if suite not in ON_BOTH_LOOPS | AS_IN_PRODUCTION or item.get_closest_marker("slow") is not None:
        return loops
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - absent on systems that it is not made for
    except ImportError:
        return loops
    return {"uvloop": new_event_loop} if suite in AS_IN_PRODUCTION else loops | {"uvloop": new_event_loop}


@dataclass(frozen=True, slots=True)
class SessionPostgres:
    """The session's PostgreSQL; a test creates what it needs beside `url`, and never stops the server."""

    url: str
    strategy: str = ""
    """How it copies templates; the server's own way if empty."""


@pytest.fixture(scope="session")
def session_mark() -> str:
    """What the names of this session begin with, on servers that others use too."""
    return f"t{uuid4().hex[:10]}"


@pytest.fixture(scope="session")
def session_runner() -> Iterator[asyncio.Runner]:
    """The event loop that session fixtures run on.

    pytest-asyncio ends its own session loop, and every fixture made on it, whenever the next test runs on another kind of
    loop. The servers would then start anew for each test that is marked ``both_loops``.
    """
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="session")
def servers_directory(session_runner: asyncio.Runner) -> Iterator[Path]:
    directory = session_directory(in_memory=True)
    yield session_runner.run(directory.__aenter__())
    session_runner.run(directory.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def postgres(session_runner: asyncio.Runner, servers_directory: Path) -> Iterator[SessionPostgres]:
    if given := os.environ.get("LARDER_DATABASE_URL"):
        yield SessionPostgres(given)
        return
    programs = Path(given) if (given := os.environ.get("TESTS_POSTGRES")) else None
    server = session_runner.run(start_postgres(servers_directory / "postgres", options=_NO_DISK, programs=programs))
    # Its checkpoints need not reach the disk, so that to copy files is less work than to log their pages.
    yield SessionPostgres(server.url, strategy="FILE_COPY")
    session_runner.run(server.stop())


@pytest.fixture(scope="session")
def pgbouncer(session_runner: asyncio.Runner, servers_directory: Path, postgres: SessionPostgres) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode in front of the session's PostgreSQL. A test keeps to its own database."""
    if pgbouncer_program() is None and "CI" not in os.environ:
        pytest.skip("PgBouncer is not installed (on Debian: apt-get install --no-install-recommends pgbouncer)")
    opened = start_pgbouncer(servers_directory / "pgbouncer", place_of(postgres.url))
    yield session_runner.run(opened.__aenter__())
    session_runner.run(opened.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def migrated_template(
    session_runner: asyncio.Runner, postgres: SessionPostgres, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    if "TESTS_POOLER" in os.environ:
        os.environ["TESTS_POOLER_PORT"] = str(request.getfixturevalue("pgbouncer").port)
    name = new_name()
    session_runner.run(_migrate(session_runner.run(create_database(postgres.url, name))))
    yield name
    session_runner.run(drop_database(postgres.url, name))


@pytest.fixture
async def database_url(postgres: SessionPostgres, migrated_template: str, namespace: str) -> AsyncIterator[str]:
    """A migrated, empty database of the test's own, whose audit row knows that the test's namespace was never fenced.

    Without that row the first audit would wait for the longest fence that an earlier history could have left.
    """
    name = new_name()
    url = await create_database(postgres.url, name, template=migrated_template, strategy=postgres.strategy)
    await know_history(url, namespace)
    if "TESTS_POOLER" in os.environ:
        await prepare_role(url)
    yield url
    await drop_database(postgres.url, name)


@pytest.fixture
async def empty_database_url(postgres: SessionPostgres) -> AsyncIterator[str]:
    """A database of the test's own that no migration has seen."""
    name = new_name()
    yield await create_database(postgres.url, name, strategy=postgres.strategy)
    await drop_database(postgres.url, name)


@pytest.fixture(scope="session")
def redis_url(session_runner: asyncio.Runner, servers_directory: Path, session_mark: str) -> Iterator[str]:
    """The session's Redis; a test keeps to its `namespace` and never empties, stops or fills the server."""
    if given := os.environ.get("LARDER_REDIS_URL"):
        yield given
        session_runner.run(_forget(given, session_mark))
        return
    program = Path(given) if (given := os.environ.get("TESTS_REDIS")) else None
    server = session_runner.run(start_redis(servers_directory / "redis", program=program))
    yield server.url
    session_runner.run(server.stop())


@pytest.fixture(scope="session")
def redis_cluster(session_runner: asyncio.Runner, servers_directory: Path) -> Iterator[RedisCluster]:
    """The session's cluster of three masters; a test keeps to its `namespace`, and gives back every slot that it moves."""
    directory = servers_directory / "redis-cluster"
    directory.mkdir()
    opened = start_redis_cluster(directory)
    yield session_runner.run(opened.__aenter__())
    session_runner.run(opened.__aexit__(None, None, None))


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

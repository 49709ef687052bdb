"""Each contract runs on the in-memory fake and on the real server, so that the simulation's fakes do what the servers do."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from tests.contracts.entities import SUBJECTS, Subject
from tests.contracts.sources import MemoryDatabase, SourceBench, open_postgres_bench
from tests.contracts.stores import MemoryBench, StoreBench, open_partition_bench, open_redis_bench
from tests.fakes.near_store import NearMemoryStore
from tests.harness.redis_user import documented_rules, redis_user


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run variants that differ in SQL or the store on one event loop only, and those with copies only where slots are read."""
    other_tables = SUBJECTS.keys() - {"products"}

    def repeats(item: pytest.Item) -> bool:
        copies = "copies" in item.name
        of_others = any(table in item.name for table in other_tables) or item.path.stem == "test_shared_audit"
        of_others = of_others or "cluster" in item.name or "by its user" in item.name or copies
        return ("[uvloop-" in item.name and of_others) or (copies and item.path.stem != "test_store")

    items[:] = [item for item in items if not repeats(item)]
    for item in items:
        for server in _servers_of(item):
            item.add_marker(server)
    if "TESTS_POOLER" in os.environ:
        hidden = pytest.mark.skip(reason="a pooler replaces a session that is lost; the snapshot's epoch is what counts then")
        for item in items:
            if item.name.startswith("test_session_that_is_lost[") and "postgres" in item.name:
                item.add_marker(hidden)


def _servers_of(item: pytest.Item) -> Iterator[str]:
    """The kinds of servers that a test asks, for a run on other versions of one kind: ``-m redis``."""
    fixtures = getattr(item, "fixturenames", ())
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if "database_url" in fixtures or {params.get("postgres_at", "memory"), params.get("subject_at", "memory")} != {"memory"}:
        yield "postgres"
    if "redis_url" in fixtures or "redis" in f"{params.get('redis_at')} {params.get('stored_at')}":
        yield "redis"


@pytest.fixture(params=["memory", "redis"])
def redis_at(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """Redis's URL and a namespace; ``None`` for the fake, so that no server is started."""
    if request.param == "memory":
        return None
    return request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")


@pytest.fixture(scope="session")
def documented_user(redis_url: str, session_mark: str, session_runner: asyncio.Runner) -> Iterator[str]:
    """The session's Redis, as a user who has the rights that docs/OPERATIONS.md names, and no others."""
    user = redis_user(redis_url, f"larder-{session_mark}", documented_rules())
    yield session_runner.run(user.__aenter__())
    session_runner.run(user.__aexit__(None, None, None))


Opener = Callable[[], AbstractAsyncContextManager[StoreBench]]
_STORES = ("memory", "copies in memory", "redis", "redis by its user", "copies of redis")


@pytest.fixture(params=[*_STORES, pytest.param("cluster", marks=pytest.mark.heavy)])
def stored_at(request: pytest.FixtureRequest) -> Opener | MemoryBench:
    """What opens a Redis, or a partition on a node of a cluster; or the fake, so that no server is started."""
    if request.param == "memory":
        return MemoryBench()
    if request.param == "copies in memory":
        return MemoryBench(kind=NearMemoryStore)
    if request.param == "cluster":
        url = request.getfixturevalue("redis_cluster").url
        return partial(open_partition_bench, url, request.getfixturevalue("namespace"))
    near_bytes = 1_000_000 if "copies" in request.param else 0
    user_url = request.getfixturevalue("documented_user") if "user" in request.param else ""
    url = request.getfixturevalue("redis_url")
    return partial(open_redis_bench, url, request.getfixturevalue("namespace"), near_bytes, user_url)


@pytest.fixture
async def stored(stored_at: Opener | MemoryBench) -> AsyncIterator[StoreBench]:
    """A store: the fake, a Redis, or a partition on a node of a cluster; some keep copies of slots."""
    if isinstance(stored_at, MemoryBench):
        yield stored_at
        return
    async with stored_at() as bench:
        yield bench


@pytest.fixture(params=["memory", "postgres"])
def postgres_at(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """PostgreSQL's URL and a namespace; ``None`` for the fake."""
    if request.param == "memory":
        return None
    return request.getfixturevalue("database_url"), request.getfixturevalue("namespace")


@pytest.fixture(params=["memory", *SUBJECTS])
def subject_at(request: pytest.FixtureRequest) -> tuple[str, str, Subject] | None:
    """PostgreSQL's URL, a namespace and a table; ``None`` for the fake."""
    if request.param == "memory":
        return None
    return request.getfixturevalue("database_url"), request.getfixturevalue("namespace"), SUBJECTS[request.param]


@pytest.fixture
async def truth(subject_at: tuple[str, str, Subject] | None) -> AsyncIterator[SourceBench]:
    """A source: the fake, or a table in PostgreSQL."""
    if subject_at is None:
        yield MemoryDatabase()
        return
    async with open_postgres_bench(*subject_at) as bench:
        yield bench

"""Each contract runs on the in-memory fake and on the real server, so that the simulation's fakes do what the servers do."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from tests.contracts.entities import SUBJECTS, Subject
from tests.contracts.sources import MemoryDatabase, SourceBench, open_postgres_bench
from tests.contracts.stores import MemoryBench, StoreBench, open_partition_bench, open_redis_bench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tables other than products, and audits of several, on one event loop only: what differs in them is SQL."""
    other_tables = SUBJECTS.keys() - {"products"}

    def repeats(item: pytest.Item) -> bool:
        of_others = any(table in item.name for table in other_tables) or item.path.stem == "test_shared_audit"
        of_others = of_others or "cluster" in item.name
        return "[uvloop-" in item.name and of_others

    items[:] = [item for item in items if not repeats(item)]
    if "TESTS_POOLER" in os.environ:
        hidden = pytest.mark.skip(reason="a pooler replaces a session that is lost; the snapshot's epoch is what counts then")
        for item in items:
            if item.name.startswith("test_session_that_is_lost[") and "postgres" in item.name:
                item.add_marker(hidden)


@pytest.fixture(params=["memory", "redis"])
def redis_at(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """Redis's URL and a namespace; ``None`` for the fake, so that no server is started."""
    if request.param == "memory":
        return None
    return request.getfixturevalue("redis_url"), request.getfixturevalue("namespace")


Opener = Callable[[], AbstractAsyncContextManager[StoreBench]]


@pytest.fixture(params=["memory", "redis", pytest.param("cluster", marks=pytest.mark.alone)])
def stored_at(request: pytest.FixtureRequest) -> Opener | None:
    """What opens a Redis, or a partition on a node of a cluster; ``None`` for the fake, so that no server is started."""
    if request.param == "memory":
        return None
    if request.param == "redis":
        return partial(open_redis_bench, request.getfixturevalue("redis_url"), request.getfixturevalue("namespace"))
    return partial(open_partition_bench, request.getfixturevalue("redis_cluster").url, request.getfixturevalue("namespace"))


@pytest.fixture
async def stored(stored_at: Opener | None) -> AsyncIterator[StoreBench]:
    """A store: the fake, a Redis, or a partition on a node of a cluster."""
    if stored_at is None:
        yield MemoryBench()
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

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from app.postgres.database import Database
from app.products.pair_table import hold
from app.settings import Settings
from tests.conftest import SessionPostgres
from tests.harness.million import fill
from tests.harness.servers import create_database, drop_database, new_name
from tests.limits import open_database
from tests.products.instances import Instance, instance
from tests.products.two import Two


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those on the large database first: workers that run dry take tests from the end of another's list.

    So these stay together, and the database is made in one worker only.
    """
    items.sort(key=lambda item: "million" not in getattr(item, "fixturenames", ()))


@pytest.fixture
def settings(database_url: str, redis_url: str, namespace: str) -> Settings:
    """The settings of a fleet of its own. Locks are waited for briefly, so that scenarios with a held row are short."""
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace}
    given |= {"DATABASE_LOCK_TIMEOUT_MS": "300", "TRANSACTION_ATTEMPTS": "2"}
    return Settings.from_env({f"LARDER_{name}": value for name, value in given.items()})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def larder(settings: Settings) -> AsyncIterator[Instance]:
    async with instance(settings) as running:
        yield running


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Instance]:
    """A second instance on the same servers, as another process would be."""
    async with instance(settings) as running:
        yield running


@pytest.fixture(scope="session")
def million(session_runner: asyncio.Runner, postgres: SessionPostgres, migrated_template: str) -> Iterator[str]:
    """A database of 1,000,000 products, for looking only."""
    name = new_name()
    url = session_runner.run(create_database(postgres.url, name, template=migrated_template))
    session_runner.run(fill(url))
    yield url
    session_runner.run(drop_database(postgres.url, name))


@pytest.fixture
async def two(database_url: str, postgres: SessionPostgres, migrated_template: str) -> AsyncIterator[Two]:
    name = new_name()
    urls = {"a": database_url, "b": await create_database(postgres.url, name, template=migrated_template)}
    databases = {key: open_database(url) for key, url in urls.items()}
    for key, ranges in (("a", "0-511"), ("b", "512-1023")):
        await hold(databases[key], ranges)
    yield Two(urls, databases)
    for database in databases.values():
        await database.close()
    await drop_database(postgres.url, name)

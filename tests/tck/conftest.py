"""A catalogue for every case, three times: with a cache that works, that refuses publishes, and that loses their replies.

Servers' connections are what costs time here, so the cases share a fleet of each kind; their products' ids are their own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import psycopg
import pytest
import pytest_asyncio

from tests.cache.conftest import Slots
from tests.cache.rig import LONG_FENCE, Process, open_process, until
from tests.conftest import SessionPostgres
from tests.harness.servers import create_database, drop_database, know_history, new_name
from tests.limits import cache_config
from tests.tck.shop import WRITER_FAILS, Shop, Trouble, stop

QUICK_AUDITS = cache_config(audit_interval_ms=20, fence_ttl_ms=2_000, fence_ttl_max_ms=2_000, settle_poll_ms=5)
"""Settling waits for an audit: these come often, so that a case is over soon."""

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two processes, the second of which audits, and a look into both servers."""

    trouble: Trouble
    at: Process
    other: Process
    slots: Slots
    database: "psycopg.AsyncConnection[tuple[object, ...]]"


@asynccontextmanager
async def cases_database(postgres: SessionPostgres, migrated_template: str) -> AsyncIterator[str]:
    """A database for a fleet, in which the test can make a commit fail; only one namespace of it could be trusted."""
    name = new_name()
    url = await create_database(postgres.url, name, template=migrated_template)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(WRITER_FAILS)
    yield url
    await drop_database(postgres.url, name)


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=list(Trouble), ids=str)
async def fleet(
    request: pytest.FixtureRequest, postgres: SessionPostgres, migrated_template: str, redis_url: str, session_mark: str
) -> AsyncIterator[Fleet]:
    """The fleet for all cases of one trouble. The last two parameters make the twins: the cache fails, and nobody notices."""
    trouble = Trouble(request.param)
    works = trouble is Trouble.NONE
    config = LONG_FENCE if works else QUICK_AUDITS
    namespace = f"{session_mark}.tck{next(_numbers)}"
    slots = Slots(redis_url, namespace)
    async with cases_database(postgres, migrated_template) as url:
        await know_history(url, namespace)
        async with (
            open_process(redis_url, url, namespace, config=config) as at,
            open_process(redis_url, url, namespace, config=config, audited=not works) as other,
            await psycopg.AsyncConnection.connect(url, autocommit=True) as database,
        ):
            yield Fleet(trouble, at, other, slots, database)
    await slots.client.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def shop(fleet: Fleet) -> AsyncIterator[Shop]:
    """The case's catalogue, empty, behind a cache that is proven current."""

    async def proven() -> bool:
        return bool((await fleet.other.store.read(())).epoch)

    if fleet.trouble is Trouble.NONE:
        await fleet.other.trust()
    await until(proven)
    shop = Shop(fleet.at, fleet.other, fleet.slots, fleet.database, fleet.trouble, f"case{next(_numbers)}")
    shop.start()
    watching = asyncio.create_task(shop.watch())
    try:
        yield shop
    finally:
        await stop(watching)
    shop.judge()

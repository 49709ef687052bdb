"""What the contracts of shared audits need besides the ports: two namespaces on one server, and ways to trouble one of them."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Protocol

import psycopg

from app.cache.entity import Entity
from app.cache.ports import SharedAuditSource, SharedAuditStore
from app.cache.postgres.shared_audit import open_shared_audit
from app.cache.redis.audit_store import RedisSharedAudit
from app.cache.redis.connection import RedisLink
from tests.contracts.entities import SUBJECTS
from tests.contracts.sources import MemoryDatabase, SourceBench, open_postgres_bench
from tests.contracts.stores import MemoryBench, StoreBench, open_redis_bench
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.rows import NAMESPACE, SUPPLIERS, table_of
from tests.fakes.shared_audit import MemorySharedSource, MemorySharedStore, space_of
from tests.fakes.wire import Direct
from tests.limits import open_database, redis_options


class SharedStoreBench(Protocol):
    """Two namespaces of one store."""

    spaces: Mapping[str, StoreBench]

    async def open(self) -> SharedAuditStore:
        """Open the store for one cycle of both."""

    async def cut(self) -> None:
        """End the connections of all cycles."""


class MemorySpaces:
    """The fake."""

    def __init__(self) -> None:
        first = MemoryBench()
        self._server = first.server
        self.spaces: Mapping[str, StoreBench] = {
            NAMESPACE: first,
            SUPPLIERS: MemoryBench(self._server, space_of(SUPPLIERS)),
        }

    async def open(self) -> SharedAuditStore:
        return MemorySharedStore(lambda: self._server, Direct())

    async def cut(self) -> None:
        self._server.restart(self._server.data)


class RedisSpaces:
    """Redis itself."""

    def __init__(self, spaces: Mapping[str, StoreBench], url: str) -> None:
        self.spaces = spaces
        self._url = url
        self._links: list[RedisLink] = []

    async def open(self) -> SharedAuditStore:
        link = redis_options(self._url).link()
        self._links.append(link)
        await link.start_once()
        return RedisSharedAudit(link.connection())

    async def cut(self) -> None:
        for link in self._links:
            await link.close()


@asynccontextmanager
async def open_redis_spaces(url: str, namespace: str) -> AsyncIterator[RedisSpaces]:
    """Open Redis for the contract."""
    async with AsyncExitStack() as opened:
        names = (namespace, f"{namespace}-suppliers")
        spaces = RedisSpaces({name: await opened.enter_async_context(open_redis_bench(url, name)) for name in names}, url)
        opened.push_async_callback(spaces.cut)
        yield spaces


class SharedSourceBench(Protocol):
    """The tables of products and of suppliers in one source, in which nobody ever set a fence."""

    tables: Sequence[SourceBench]

    def open(self) -> AbstractAsyncContextManager[SharedAuditSource]:
        """Open the source for one cycle of both."""

    def locked(self) -> AbstractAsyncContextManager[None]:
        """Hold the suppliers against everybody, as DDL does."""

    def without_trigger(self) -> AbstractAsyncContextManager[None]:
        """Switch a trigger of the suppliers off: they have no epoch then."""

    async def cut(self) -> None:
        """End the sessions of all cycles."""


class MemoryTables:
    """The fake."""

    def __init__(self) -> None:
        self._postgres = MemoryPostgres(time.monotonic)
        self.tables: Sequence[SourceBench] = [MemoryDatabase(self._postgres, name) for name in (NAMESPACE, SUPPLIERS)]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SharedAuditSource]:
        yield MemorySharedSource(self._postgres, Direct())

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        self._postgres.locked.add(table_of(SUPPLIERS))
        yield
        self._postgres.locked.clear()

    @asynccontextmanager
    async def without_trigger(self) -> AsyncIterator[None]:
        self._postgres.untriggered.add(table_of(SUPPLIERS))
        yield
        self._postgres.untriggered.clear()

    async def cut(self) -> None:
        self._postgres.restart()


class PostgresTables:
    """PostgreSQL itself."""

    def __init__(self, url: str, tables: Sequence[SourceBench], entities: Mapping[str, Entity]) -> None:
        self.tables = tables
        self._entities = entities
        self._url = url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SharedAuditSource]:
        database = open_database(self._url, connections=5)
        try:
            async with open_shared_audit(database, self._entities) as source:
                yield source
        finally:
            await database.close()

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        async with await psycopg.AsyncConnection.connect(self._url) as hand:
            await hand.execute("LOCK TABLE suppliers IN ACCESS EXCLUSIVE MODE")
            yield

    @asynccontextmanager
    async def without_trigger(self) -> AsyncIterator[None]:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as hand:
            await hand.execute("ALTER TABLE suppliers DISABLE TRIGGER zz_larder_change")
            yield
            await hand.execute("ALTER TABLE suppliers ENABLE ALWAYS TRIGGER zz_larder_change")

    async def cut(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as hand:
            await hand.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'larder'"
            )


@asynccontextmanager
async def open_postgres_tables(url: str, namespace: str) -> AsyncIterator[PostgresTables]:
    """Open PostgreSQL for the contract."""
    async with AsyncExitStack() as opened:
        tables, entities = [], {}
        for table, name in (("products", namespace), ("suppliers", f"{namespace}-suppliers")):
            subject = SUBJECTS[table]
            tables.append(await opened.enter_async_context(open_postgres_bench(url, name, subject)))
            entities[name] = replace(subject.entity, namespace=name)
        yield PostgresTables(url, tables, entities)

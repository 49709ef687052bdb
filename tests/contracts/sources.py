"""What the sources' contract needs besides the ports: ways to change rows and the audit row by hand."""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

import psycopg
from psycopg.rows import TupleRow

from app.cache.ports import AuditSource, HistorySource, Source
from app.cache.postgres.namespaces import bar
from app.cache.postgres.table_audit import TableAuditSources
from app.cache.postgres.table_source import TableSource
from app.postgres.database import Database
from app.products.source import PRODUCTS, ProductSource
from tests.fakes.postgres import NAMESPACE, AuditRow, MemoryPostgres, Transaction
from tests.fakes.source import MemorySource, open_audit_source
from tests.fakes.wire import Direct
from tests.limits import open_database


class SourceBench(Protocol):
    """A source under test. Nobody ever set a fence in it."""

    source: Source
    history: HistorySource
    namespace: str

    def open(self, namespace: str = "") -> AbstractAsyncContextManager[AuditSource]:
        """Open the source for an audit cycle, of another namespace of the table if one is named."""

    async def change(self, *keys: str) -> None:
        """Create or change rows in one transaction."""

    async def delete(self, key: str) -> None:
        """Delete a row."""

    def changing(self, key: str) -> AbstractAsyncContextManager[None]:
        """Open a transaction that changes a row at once and commits at the end."""

    async def truncate(self) -> None:
        """Empty the table: another epoch begins."""

    async def remember(self) -> None:
        """Dump the audit row."""

    async def put_back(self) -> None:
        """Restore the audit row as it was when remembered."""

    async def forget(self) -> None:
        """Lose the audit row."""

    async def forget_time(self) -> None:
        """Let every fence that was announced lapse."""

    async def settle_server(self, server: str) -> None:
        """Let the audit row name a server."""

    async def bar(self, *, barred: bool) -> None:
        """Forbid the namespace's auditors to announce, or allow it."""


class MemoryDatabase:
    """The fake."""

    def __init__(self) -> None:
        self._postgres = MemoryPostgres(time.monotonic)
        self._postgres.know_history()
        self._dump: dict[str, AuditRow] = {}
        self._changes = 0
        self.source: Source
        self.history: HistorySource
        self.source = self.history = MemorySource(self._postgres, Direct())
        self.namespace = NAMESPACE

    def open(self, namespace: str = "") -> AbstractAsyncContextManager[AuditSource]:
        return open_audit_source(self._postgres, Direct(), namespace or self.namespace)

    async def change(self, *keys: str) -> None:
        transaction = self._postgres.begin("hand")
        for key in keys:
            self._change(transaction, key)
        self._postgres.commit(transaction)

    async def delete(self, key: str) -> None:
        transaction = self._postgres.begin("hand")
        self._postgres.change(transaction, key, lambda _: None)
        self._postgres.commit(transaction)

    @asynccontextmanager
    async def changing(self, key: str) -> AsyncIterator[None]:
        transaction = self._postgres.begin("hand")
        self._change(transaction, key)
        yield
        self._postgres.commit(transaction)

    async def truncate(self) -> None:
        assert self._postgres.truncate()

    async def remember(self) -> None:
        self._dump = {name: replace(row) for name, row in self._postgres.audits.items()}

    async def put_back(self) -> None:
        self._postgres.audits = {name: replace(row) for name, row in self._dump.items()}

    async def forget(self) -> None:
        self._postgres.audits.clear()

    async def forget_time(self) -> None:
        for row in self._postgres.audits.values():
            row.fenced_until = row.other_until = float("-inf")

    async def settle_server(self, server: str) -> None:
        self._postgres.audits[NAMESPACE].server = server

    async def bar(self, *, barred: bool) -> None:
        self._postgres.audits[NAMESPACE].barred = barred

    def _change(self, transaction: Transaction, key: str) -> None:
        self._changes += 1
        content = f"change {self._changes}"
        self._postgres.change(transaction, key, lambda _: content)


class PostgresDatabase:
    """PostgreSQL itself."""

    def __init__(self, url: str, hand: psycopg.AsyncConnection[TupleRow], database: Database, namespace: str) -> None:
        self._url = url
        self._hand = hand
        self._database = database
        self.namespace = namespace
        self.source: Source = ProductSource(database)
        self.history: HistorySource = TableSource(database.loads, PRODUCTS, namespace)

    def open(self, namespace: str = "") -> AbstractAsyncContextManager[AuditSource]:
        return _audit_of_another_process(self._url, namespace or self.namespace)

    async def change(self, *keys: str) -> None:
        async with self._hand.transaction():
            for key in keys:
                await self._hand.execute(
                    "INSERT INTO products (id, name, price_cents) VALUES (%s, 'Mug', 0) ON CONFLICT (id)"
                    " DO UPDATE SET price_cents = products.price_cents + 1, deleted_at = NULL",
                    (key,),
                )

    async def delete(self, key: str) -> None:
        await self._hand.execute("DELETE FROM products WHERE id = %s", (key,))

    @asynccontextmanager
    async def changing(self, key: str) -> AsyncIterator[None]:
        async with self._hand.transaction():
            await self.change(key)
            yield

    async def truncate(self) -> None:
        await self._hand.execute("TRUNCATE products")

    async def remember(self) -> None:
        await self._hand.execute("CREATE TEMP TABLE dump AS SELECT * FROM cache_audits")

    async def put_back(self) -> None:
        await self.forget()
        await self._hand.execute("INSERT INTO cache_audits SELECT * FROM dump")

    async def forget(self) -> None:
        await self._hand.execute("DELETE FROM cache_audits")

    async def forget_time(self) -> None:
        await self._hand.execute("UPDATE cache_audits SET fenced_until = '-infinity', other_until = '-infinity'")

    async def settle_server(self, server: str) -> None:
        await self._hand.execute("UPDATE cache_audits SET server = %s", (server,))

    async def bar(self, *, barred: bool) -> None:
        await bar(self._database, PRODUCTS, self.namespace, barred=barred)


@asynccontextmanager
async def open_postgres_bench(url: str, namespace: str) -> AsyncIterator[PostgresDatabase]:
    """Open PostgreSQL for the contract."""
    database = open_database(url, connections=3)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as hand:
        yield PostgresDatabase(url, hand, database, namespace)
    await database.close()


@asynccontextmanager
async def _audit_of_another_process(url: str, namespace: str) -> AsyncIterator[AuditSource]:
    database = open_database(url, connections=4)
    try:
        async with TableAuditSources(database, PRODUCTS, namespace).open() as audit:
            yield audit
    finally:
        await database.close()

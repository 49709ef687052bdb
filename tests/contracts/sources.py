"""What the sources' contract needs besides the ports: ways to change rows and the audit row by hand."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from app.cache.ports import AuditSource, FenceLimits, HistorySource, Snapshot, Source, State, Watermark
from app.cache.postgres.namespaces import bar
from app.cache.postgres.table_audit import TableAuditSource
from app.cache.postgres.table_source import TableRows, TableSource
from app.postgres.database import Database, Session
from tests.contracts.entities import Subject
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.rows import NAMESPACE, AuditRow, Transaction
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

    def __init__(self, postgres: MemoryPostgres | None = None, namespace: str = NAMESPACE) -> None:
        self._postgres = postgres or MemoryPostgres(time.monotonic)
        self._postgres.know_history(namespace)
        self._dump: dict[str, AuditRow] = {}
        self._changes = 0
        self.source: Source
        self.history: HistorySource
        self.source = self.history = MemorySource(self._postgres, Direct(), namespace)
        self.namespace = namespace

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
        self._postgres.audits[self.namespace].server = server

    async def bar(self, *, barred: bool) -> None:
        self._postgres.audits[self.namespace].barred = barred

    def _change(self, transaction: Transaction, key: str) -> None:
        self._changes += 1
        content = f"change {self._changes}"
        self._postgres.change(transaction, key, lambda _: content)


class PostgresDatabase:
    """PostgreSQL itself, with one of the cached tables."""

    def __init__(
        self, url: str, hand: psycopg.AsyncConnection[TupleRow], database: Database, namespace: str, subject: Subject
    ) -> None:
        self._url = url
        self._hand = hand
        self._database = database
        self._subject = subject
        self.namespace = namespace
        self.source: Source = _RowsByWord(database, subject)
        self.history: HistorySource = TableSource(database.loads, subject.entity, namespace)

    def open(self, namespace: str = "") -> AbstractAsyncContextManager[AuditSource]:
        return _audit_of_another_process(self._url, namespace or self.namespace, self._subject)

    async def change(self, *keys: str) -> None:
        async with self._hand.transaction():
            for key in keys:
                await self._hand.execute(self._subject.change, (self._subject.key(key),))

    async def delete(self, key: str) -> None:
        await self._hand.execute(self._subject.delete, (self._subject.key(key),))

    @asynccontextmanager
    async def changing(self, key: str) -> AsyncIterator[None]:
        async with self._hand.transaction():
            await self.change(key)
            yield

    async def truncate(self) -> None:
        await self._hand.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(self._subject.entity.table)))

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
        await bar(self._database, self._subject.entity, self.namespace, barred=barred)


class _RowsByWord(TableRows):
    """Rows whose keys are named by the words of the contract."""

    def __init__(self, database: Database, subject: Subject) -> None:
        super().__init__(database.loads, subject.entity)
        self._subject = subject

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        texts = {self._subject.entity.key_text(self._subject.key(key)): key for key in keys}
        states = await super().load(list(texts))
        return {texts[text]: replace(state, key=texts[text]) for text, state in states.items()}


class _AuditByWord(TableAuditSource):
    """An audit whose pages name keys by the words of the contract."""

    def __init__(self, session: Session, subject: Subject, namespace: str) -> None:
        super().__init__(session, subject.entity, namespace)
        self._subject = subject

    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        async with super().snapshot(since, limits, page_rows) as snapshot:
            yield replace(snapshot, pages=self._by_word(snapshot))

    async def _by_word(self, snapshot: Snapshot) -> AsyncIterator[Sequence[tuple[str, int]]]:
        async for page in snapshot.pages:
            yield [(self._subject.word(text), version) for text, version in page]


@asynccontextmanager
async def open_postgres_bench(url: str, namespace: str, subject: Subject) -> AsyncIterator[PostgresDatabase]:
    """Open PostgreSQL for the contract."""
    await prepare(url, namespace, subject)
    database = open_database(url, connections=5)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as hand:
        yield PostgresDatabase(url, hand, database, namespace, subject)
    await database.close()


async def prepare(url: str, namespace: str, subject: Subject) -> None:
    """Make the subject's table in a migrated database, if it is not there, and say that nobody ever set a fence for it."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as hand:
        if subject.create:
            await hand.execute(subject.create.encode())
        await hand.execute(
            "INSERT INTO cache_audits (relation, namespace, epoch) VALUES (%(table)s, %(name)s, larder_epoch(%(table)s, 9))"
            " ON CONFLICT DO NOTHING",
            {"table": subject.entity.table, "name": namespace},
        )


@asynccontextmanager
async def _audit_of_another_process(url: str, namespace: str, subject: Subject) -> AsyncIterator[AuditSource]:
    database = open_database(url, connections=5)
    try:
        async with database.audit.session() as session:
            yield _AuditByWord(session, subject, namespace)
    finally:
        await database.close()

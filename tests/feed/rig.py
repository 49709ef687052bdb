"""A database with the feed, and audits that need no Redis: what they prove is the schedule's to say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import TupleRow

from app.cache.entity import Entity
from app.cache.ports import Announced, AuditSource, FenceLimits
from app.cache.postgres.table_audit import TableAuditSources
from app.feed.events import Event, EventType
from app.feed.windows import Newest, Windows
from app.postgres.database import Database
from app.products.source import PRODUCTS
from tests.limits import open_database

NAMESPACE = "products.feed"
LIMITS = FenceLimits(60_000, 60_000, 50)
"""Fences that outlast the test."""
Hand = psycopg.AsyncConnection[TupleRow]


@dataclass(slots=True)
class Under:
    """An audit between its snapshot and its completion."""

    source: AuditSource
    cycle: int

    async def complete(self) -> None:
        """Complete it."""
        await self.source.complete(self.cycle)


@dataclass(frozen=True, slots=True)
class Base:
    """A database under test."""

    url: str
    database: Database
    windows: Windows
    hand: Hand

    @asynccontextmanager
    async def auditing(
        self, entity: Entity = PRODUCTS, namespace: str = NAMESPACE, limits: FenceLimits = LIMITS
    ) -> AsyncIterator[Under]:
        """An audit that has announced itself and taken its snapshot."""
        database = open_database(self.url, connections=5)
        try:
            async with TableAuditSources(database, entity, namespace).open() as source:
                announced = await source.announce("server", limits)
                assert isinstance(announced, Announced)
                async with source.snapshot(None, limits, 10):
                    pass
                yield Under(source, announced.cycle)
        finally:
            await database.close()

    async def audit(self, entity: Entity = PRODUCTS, namespace: str = NAMESPACE, limits: FenceLimits = LIMITS) -> Newest:
        """Run a whole audit; return the newest mark."""
        async with self.auditing(entity, namespace, limits) as audit:
            await audit.complete()
        return await self.windows.newest()

    async def lapse(self) -> None:
        """Let every fence lapse."""
        await self.hand.execute("UPDATE cache_audits SET fenced_until = '-infinity', other_until = '-infinity'")

    async def run(self, statement: LiteralString, *parameters: Any) -> list[TupleRow]:
        """Run SQL by hand."""
        cursor = await self.hand.execute(statement, parameters or None)
        return await cursor.fetchall() if cursor.description else []

    async def told(self, since: int, upto: int) -> list[tuple[str, str, int]]:
        """The events of a window: type, product and version."""
        return [told(event) for event in await self.windows.read(since, upto, limit=10_000)]


def told(event: Event) -> tuple[str, str, int]:
    """Type, product and version of an event."""
    return event.type.value, event.position.id, event.position.version


def products_in(events: list[Event]) -> list[tuple[str, int]]:
    """Product and version of the events about products."""
    return [told(event)[1:] for event in events if event.type is EventType.PRODUCT]


@asynccontextmanager
async def open_base(url: str) -> AsyncIterator[Base]:
    """Open the database."""
    database = open_database(url, connections=5)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as hand:
        yield Base(url, database, Windows(database, 50, lambda _epoch, _at: None), hand)
    await database.close()

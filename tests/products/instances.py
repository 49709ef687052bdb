"""Service instances for tests of what is below HTTP, and hands in the database that know nothing of the service."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from app.cache.write_through import WriteThrough
from app.main import running
from app.products.commands import Effect, Upsert
from app.products.errors import Refused
from app.products.idempotency import Answer, IdempotencyKey, Origin
from app.products.product import Draft
from app.products.reservation import Reservation
from app.products.service import Products
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of the service: connections, a queue and a cache of its own."""

    settings: Settings
    products: Products

    @property
    def cache(self) -> WriteThrough:
        return self.products._cache

    async def stock(self, *product_ids: str) -> None:
        """Create products with 10 units each."""
        await self.products.write(Upsert([Draft(product_id, "Mug", 100, 10) for product_id in product_ids]))


@asynccontextmanager
async def instance(settings: Settings) -> AsyncIterator[Instance]:
    """Run one."""
    async with running(settings) as larder:
        yield Instance(settings, larder.products)


@asynccontextmanager
async def by_hand(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection as an operator has one: every statement commits by itself."""
    connection = await psycopg.AsyncConnection.connect(settings.database_url, autocommit=True)
    async with connection:
        yield connection


@asynccontextmanager
async def held(settings: Settings, statement: LiteralString, *parameters: object) -> AsyncIterator[None]:
    """A transaction by hand that holds the locks of this statement until the end of the block, and is rolled back then."""
    async with by_hand(settings) as connection, connection.transaction(force_rollback=True):
        await connection.execute(statement, parameters)
        yield


ROWS: LiteralString = "SELECT FROM products WHERE id = ANY(%s) FOR UPDATE"
"""Holds the rows of some products."""

LATER: LiteralString = """
CREATE OR REPLACE FUNCTION larder_moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    $$SELECT clock_timestamp() + interval '1 hour'$$
"""
"""Puts the moment of reservations an hour ahead."""


async def rows(settings: Settings, statement: LiteralString, parameters: dict[str, Any] | None = None) -> list[Any]:
    """What one statement gives."""
    async with by_hand(settings) as connection:
        return await (await connection.execute(statement, parameters)).fetchall()


async def deviations(settings: Settings) -> list[Any]:
    """Products whose ledger does not add up to their stock."""
    return await rows(
        settings,
        "SELECT p.id, p.stock, sum(m.delta) FROM products p LEFT JOIN stock_movements m ON m.product_id = p.id"
        " GROUP BY p.id, p.stock HAVING p.stock IS DISTINCT FROM sum(m.delta)::bigint",
    )


def once(key: str, content: bytes = b"") -> Origin:
    """A key for a request; the stored answer says what was done, or of which kind the refusal was."""

    def render(result: Sequence[Effect] | Reservation | Refused) -> Answer | None:
        if isinstance(result, Refused):
            return Answer(409, type(result).__name__.encode())
        if isinstance(result, Reservation):
            return Answer(200, f"{result.id}@{result.version}".encode())
        return Answer(200, b" ".join(f"{effect.row.id}@{effect.row.version}".encode() for effect in result))

    return Origin(idempotency_key=IdempotencyKey("", key, content, render))

"""Two databases, each with its part of the products, between which buckets move."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg

from app.buckets import moved_to, parse_ranges
from app.postgres.database import Database
from app.products.balance import deviations
from app.products.pair_move import Move
from app.products.pair_table import held_buckets
from tests.harness.servers import execute

LEAVING, STAYING = moved_to(500, "mug-0000"), moved_to(3, "cup-0000")
CREATE = "INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'x', 1, %s)"
RESERVE = """
INSERT INTO reservations (id, status, expires_at, created_at, updated_at, closed_at)
VALUES (%s, %s, now() + interval '1 h', now(), now(), %s)
"""
HOLD = """
INSERT INTO reservation_lines (reservation_id, line, product_id, quantity, committed, expires_at)
VALUES (%s, 0, %s, 2, %s, now() + interval '1 h')
"""


async def by_hand(url: str, statement: LiteralString, *values: object) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement, values)


@dataclass
class Two:
    """Two databases, each with its part of the products."""

    urls: Mapping[str, str]
    databases: Mapping[str, Database]
    said: list[str] = field(default_factory=list)
    breaks_at: str = ""
    """The move breaks off when it tells this."""
    stops_at: str = ""
    """The move stops when it tells this, until ``go`` is set."""
    breaks_after: str = ""
    """The move breaks off when it has stopped there."""
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def tell(self, text: str) -> None:
        self.said.append(text)
        if self.breaks_at and self.breaks_at in text:
            raise ConnectionError("the operator's machine went away")
        if self.stops_at and self.stops_at in text:
            await self.go.wait()
            if self.breaks_after and self.breaks_after in text:
                raise ConnectionError("the operator's machine went away")

    async def until_told(self, text: str, moving: "asyncio.Task[int]") -> None:
        """Wait until the move has come that far."""
        async with asyncio.timeout(20):
            while not any(text in line for line in self.said):
                assert not moving.done(), moving.exception()
                await asyncio.sleep(0.001)

    async def until_asked_again(self, times: int = 8) -> None:
        """Wait until the move has asked the source some more times."""
        wanted = self.databases["a"].lists.statements + times
        async with asyncio.timeout(20):
            while self.databases["a"].lists.statements < wanted:
                await asyncio.sleep(0.001)

    async def move(self, ranges: str, way: str = "ab", good_for_s: float = 0, waiting_s: float = 10) -> int:
        """Move buckets from the first of ``way`` to the second."""
        source, target = (self.databases[name] for name in way)
        move = Move(source, target, parse_ranges(ranges), self.tell, good_for_s=good_for_s, waiting_s=waiting_s)
        return await move.run()

    async def held(self) -> list[tuple[str, str] | None]:
        return [await held_buckets(database) for database in self.databases.values()]

    async def rows(self, name: str) -> dict[str, tuple[int, int, bool]]:
        """Stock, version and life of every row of a database."""
        return {
            row[0]: (row[1], row[2], row[3])
            for row in await execute(self.urls[name], "SELECT id, stock, version, deleted_at IS NULL FROM products")
        }

    async def balanced(self) -> bool:
        """Whether stocks, ledgers and reservations agree in both databases."""
        return not any([await deviations(database, limit=1) for database in self.databases.values()])

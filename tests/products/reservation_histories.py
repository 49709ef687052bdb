"""Random histories of reservations, and two services that run them: the fake, and PostgreSQL with a clock that is moved."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest

from app.postgres.database import Database
from app.products import balance
from app.products.commands import Adjust, Command, Create, delete, set_stock
from app.products.decision import Decision, Denied, Done
from app.products.idempotency import WriteRequest
from app.products.product import Draft, Line, Reason
from app.products.reservation import Part, RequestedLine, Reservation, Status
from app.products.reservation_commands import Commit, Extend, Release, Reserve, Rest
from app.products.shelf import MAX_ENDED, Shelf
from app.products.source import ProductSource
from app.products.transactions import ProductTransactions
from tests.fakes.products import MemoryProducts, MemoryTransactions
from tests.products.reservation_model import Model

Connection = psycopg.AsyncConnection[Any]
PRODUCTS = ("a", "b", "c")
BEGIN = datetime(2100, 1, 1, tzinfo=UTC)
"""The moments of these tests lie beyond the times that PostgreSQL's own clock puts into rows."""
TEST_CLOCK: LiteralString = """
CREATE TABLE test_clock (moment timestamptz NOT NULL);
INSERT INTO test_clock VALUES ('2100-01-01Z');
CREATE OR REPLACE FUNCTION larder_moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT moment FROM test_clock';
"""
WRONGLY_CLOSED: LiteralString = """
SELECT id FROM reservations r
WHERE (closed_at IS NULL) <> EXISTS (SELECT FROM reservation_lines WHERE reservation_id = r.id AND open > 0)
"""
OPEN_BELOW_THE_MARK: LiteralString = """
SELECT p.id FROM products p JOIN reservation_lines l ON l.product_id = p.id
WHERE l.open > 0 AND l.expires_at <= p.reserved_swept
"""


@dataclass(slots=True)
class History:
    """One random history: each step is carried out by the model and gives the command for the service."""

    chance: random.Random
    model: Model = field(default_factory=Model)
    ids: list[str] = field(default_factory=list)
    told: int = 0
    """How many of the reservations have been answered, so that somebody can name them."""

    def step(self) -> tuple[Command, str]:
        """Choose a command; return it, and what the model says to it."""
        chance, model = self.chance, self.model
        product = chance.choice(PRODUCTS)
        match chance.choice(["reserve"] * 3 + ["change"] * 5 + ["adjust"] * 2 + ["count", "delete", "create"]):
            case "reserve":
                lines = [(chance.choice(PRODUCTS), chance.randint(1, 5)) for _ in range(chance.randint(1, 3))]
                life_s = chance.randint(1, 9)
                replaced = chance.randrange(self.told) if self.told and chance.random() < 0.4 else None
                replaces = None if replaced is None else self.ids[replaced]
                command = Reserve([RequestedLine(*line) for line in lines], life_s, replaces=replaces)
                said = model.reserve(lines, life_s, replaced)
                if said == "ok":
                    self.ids.append(command.id)
                return command, said
            case "change" if self.told:
                return self._change(chance.randrange(self.told))
            case "count":
                stock = chance.randint(0, 12)
                return set_stock(product, stock), model.count(product, stock)
            case "delete":
                return delete(product), model.delete(product)
            case "create":
                stock = chance.randint(5, 15)
                return Create(Draft(product, product, 1, stock)), model.create(product, stock)
            case _:
                delta, fact = chance.choice([-4, -3, -2, -1, 3, 5]), chance.random() < 0.2
                said = model.adjust(product, delta, take_reserved=fact)
                return Adjust([Line(product, delta)], Reason.SALE, take_reserved=fact), said

    def _change(self, number: int) -> tuple[Command, str]:
        chance, model, key = self.chance, self.model, self.ids[number]
        parts: dict[int, int] | None = None
        if chance.random() < 0.5:
            lines = range(len(model.holds[number].lines))
            parts = {line: chance.randint(1, 3) for line in lines if chance.random() < 0.6} or None
        listed = [Part(line, n) for line, n in parts.items()] if parts else None
        match chance.choice(["extend", "commit", "commit", "release"]):
            case "extend":
                life_s = chance.randint(1, 12)
                return Extend(key, life_s), model.extend(number, life_s)
            case "commit":
                rest = chance.choice(list(Rest))
                return Commit(key, listed, rest), model.commit(number, parts, give_rest=rest is Rest.RELEASE)
            case _:
                return Release(key, listed), model.release(number, parts)

    def check(self, stocks: dict[str, tuple[int, int]], reservations: Sequence[Reservation]) -> None:
        """Compare rows with the model. What it counts as expired may still be open."""
        found = {held.id: held for held in reservations}
        for key, hold in zip(self.ids, self.model.holds, strict=True):
            held = found[key]
            assert [line.committed for line in held.lines] == hold.sold
            assert [line.released for line in held.lines] == hold.released
            ended = any(hold.expired)
            for line, n, expired in zip(held.lines, hold.open, hold.expired, strict=True):
                assert line.open + line.expired == n + expired
                assert ended or line.expired == 0
            assert (held.expires_at - BEGIN).total_seconds() == pytest.approx(hold.ends)
            assert held.status is not Status.EXPIRED or ended
        for key, stock in self.model.stock.items():
            reserved = sum(x.open for held in reservations for x in held.lines if x.product_id == key)
            assert stocks.get(key) == (None if stock is None else (stock, reserved))


def said(decision: Decision) -> str:
    if isinstance(decision, Denied):
        return type(decision.refusal).__name__
    assert isinstance(decision, Done)
    return "ok"


class Service:
    """Transactions and what they leave, with a clock that the test moves."""

    def __init__(self, transactions: ProductTransactions, source: ProductSource) -> None:
        self.transactions = transactions
        self.source = source

    async def at(self, moment: datetime) -> None:
        """Move the clock."""
        raise NotImplementedError

    async def check(self) -> None:
        """Assert the invariants of the tables."""

    async def stock(self) -> None:
        """Begin with ten units of each product."""
        await self.at(BEGIN)
        for product in PRODUCTS:
            await self.transactions.commit([WriteRequest(Create(Draft(product, product, 1, 10)))])

    async def run(self, history: History, *, steps: int, joined: int) -> set[str]:
        """Run a history in batches of up to ``joined`` commands; return what was said."""
        heard = set()
        await self.stock()
        for product in PRODUCTS:
            history.model.create(product, 10)
        for _ in range(steps):
            if history.chance.random() < 0.5:
                history.model.advance(history.chance.choice([0.5, 1, 2, 4]))
                await self.at(BEGIN + timedelta(seconds=history.model.now))
            history.told = len(history.ids)
            chosen = [history.step() for _ in range(history.chance.randint(1, joined))]
            committed = await self.transactions.commit([WriteRequest(command) for command, _ in chosen])
            answers = [said(decision) for decision in committed.decisions]
            assert answers == [expected for _, expected in chosen], chosen
            heard |= set(answers)
            for (command, _), answer in zip(chosen, answers, strict=True):
                if answer == "ReservationExpired":  # whoever is told so is told of a committed fact
                    [key] = command.reservation_ids
                    assert (await self.source.reservations.get(key)).status is Status.EXPIRED
            page = await self.source.page(limit=9, after=None, prefix="")
            stocks = {product.id: (product.stock, product.reserved or 0) for product, _ in page}
            history.check(stocks, [await self.source.reservations.get(key) for key in history.ids])
            await self.check()
        return heard


class OnMemory(Service):
    def __init__(self, shelf: type[Shelf] = Shelf, limit: int = MAX_ENDED) -> None:
        self._tables = MemoryProducts()
        super().__init__(MemoryTransactions(self._tables, shelf, limit), self._tables)

    async def at(self, moment: datetime) -> None:
        self._tables.moment = moment


class OnPostgres(Service):
    def __init__(self, database: Database, hand: Connection) -> None:
        super().__init__(ProductTransactions(database), ProductSource(database))
        self._hand = hand

    async def at(self, moment: datetime) -> None:
        await self._hand.execute("UPDATE test_clock SET moment = %s", [moment])

    async def check(self) -> None:
        for deviations in (balance.DEVIATIONS, WRONGLY_CLOSED, OPEN_BELOW_THE_MARK):
            found = await self._hand.execute(deviations, {"limit": 9})
            assert await found.fetchall() == []

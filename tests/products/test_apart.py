"""A batch that fails as a whole is done again one by one, apart: the guilty fail alone, and hold nobody up."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from app.postgres.database import Database
from app.postgres.errors import DatabaseFailed
from app.products.commands import Create, Effect
from app.products.idempotency import WriteRequest
from app.products.product import Draft
from app.products.service import Products
from app.products.source import ProductSource
from app.products.transactions import Committed, Patience, ProductTransactions
from app.settings import Settings
from tests.harness.script import PATIENCE_S, Gate
from tests.limits import open_database, write_limits
from tests.products.instances import Instance, by_hand, rows

GUILTY = "guilty"


class GatedTransactions(ProductTransactions):
    """Transactions of which one waits before it begins, if there is a gate for just its products."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.gates: dict[tuple[str, ...], Gate] = {}
        self.begun: list[tuple[str, ...]] = []

    async def commit(self, batch: Sequence[WriteRequest], patience: Patience | None = None) -> Committed:
        ids = tuple(request.command.keys[0] for request in batch)
        self.begun.append(ids)
        if gate := self.gates.get(ids):
            await gate.enter()
        return await super().commit(batch, patience)


class Shop:
    """A service of one's own, its transactions gated; PostgreSQL refuses to store the guilty product."""

    def __init__(self, larder: Instance, database: Database) -> None:
        self.transactions = GatedTransactions(database)
        source = ProductSource(database)
        self.products = Products(larder.cache, source, self.transactions, write_limits())
        self.first, self.left, self.right, self.later = "first", "left", "right", "later"

    def create(self, product_id: str) -> "asyncio.Task[Sequence[Effect]]":
        """Begin to create a product."""
        return asyncio.create_task(self.products.write(Create(Draft(product_id, "Mug", 100))))

    def gate(self, *product_ids: str) -> Gate:
        """Let the transaction of just these products wait."""
        return self.transactions.gates.setdefault(product_ids, Gate())

    async def batch(self, *product_ids: str) -> "list[asyncio.Task[Sequence[Effect]]]":
        """Requests that wait behind a transaction under way, and so leave together."""
        opened = self.gate(self.first)
        opener = self.create(self.first)
        await opened.arrival()
        waiting = [self.create(product_id) for product_id in product_ids]
        async with asyncio.timeout(PATIENCE_S):
            while self.products._queue.waiting < len(product_ids):
                await asyncio.sleep(0)
        opened.open()
        await opener
        return waiting


@pytest.fixture
async def shop(larder: Instance, settings: Settings) -> AsyncIterator[Shop]:
    async with by_hand(settings) as hand:
        await hand.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
        )
        await hand.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON products FOR EACH ROW WHEN (NEW.id = 'guilty') EXECUTE FUNCTION refuse()"
        )
    database = open_database(settings.database_url)
    shop = Shop(larder, database)
    yield shop
    for gate in shop.transactions.gates.values():
        gate.open()
    await shop.products.aclose()
    await database.close()


async def test_the_guilty_hold_up_neither_their_batch_nor_later_writes(shop: Shop) -> None:
    """While the guilty request's own transaction is under way, its neighbours and later requests are served."""
    alone = shop.gate(GUILTY)
    guilty, left, right = await shop.batch(GUILTY, shop.left, shop.right)
    await alone.arrival()
    async with asyncio.timeout(PATIENCE_S):
        assert [(await task)[0].row.version for task in (left, right, shop.create(shop.later))] == [1, 1, 1]
    assert not guilty.done()
    alone.open()
    with pytest.raises(DatabaseFailed, match="refused"):
        await guilty
    assert shop.transactions.begun[:2] == [(shop.first,), (GUILTY, shop.left, shop.right)]
    assert sorted(shop.transactions.begun[2:]) == sorted([(GUILTY,), (shop.left,), (shop.right,), (shop.later,)])


async def test_nothing_is_done_for_who_has_left(shop: Shop, settings: Settings) -> None:
    """After a batch has failed, requests whose callers have left are not tried again."""
    together = shop.gate(GUILTY, shop.left, shop.right)
    guilty, left, right = await shop.batch(GUILTY, shop.left, shop.right)
    await together.arrival()
    left.cancel()
    together.open()
    with pytest.raises(DatabaseFailed, match="refused"):
        await guilty
    assert (await right)[0].row.version == 1
    await shop.products.aclose()
    assert left.cancelled()
    assert (shop.left,) not in shop.transactions.begun
    assert await rows(settings, "SELECT id FROM products WHERE id = %(id)s", {"id": shop.left}) == []


async def test_the_guilty_hold_up_nobody_who_was_in_their_batch(shop: Shop) -> None:
    """However many products were in it: none of them waits for the guilty one."""
    alone = shop.gate(GUILTY)
    names = [f"p{number}" for number in range(40)]
    guilty, *innocent = await shop.batch(GUILTY, *names)
    await alone.arrival()
    async with asyncio.timeout(PATIENCE_S):
        assert [(await task)[0].row.version for task in innocent] == [1] * len(names)
    assert not guilty.done()
    alone.open()
    with pytest.raises(DatabaseFailed, match="refused"):
        await guilty

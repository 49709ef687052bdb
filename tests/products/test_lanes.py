"""Which lane a write takes, without a database."""

import asyncio
from collections.abc import Sequence

import pytest

from app.products.commands import count
from app.products.idempotency import Asked
from app.products.lanes import Lanes
from tests.cache.rig import Gate

Batch = tuple[str, ...]


class Transactions:
    """Records batches by their products; one whose products have a gate waits there."""

    def __init__(self) -> None:
        self.begun: list[Batch] = []
        self.gates: dict[Batch, Gate] = {}

    def gate(self, *products: str) -> Gate:
        return self.gates.setdefault(products, Gate())

    async def send(self, batch: Sequence[Asked]) -> Sequence[Batch]:
        products = tuple(asked.command.keys[0] for asked in batch)
        self.begun.append(products)
        if gate := self.gates.get(products):
            await gate.enter()
        return [products] * len(batch)


@pytest.fixture
def transactions() -> Transactions:
    return Transactions()


def _asked(product: str) -> Asked:
    return Asked(count(product, 1))


def _lanes(transactions: Transactions, *, patience_s: float = 0.0) -> Lanes[Batch]:
    return Lanes(transactions.send, lanes=3, batch_weight=10, queue_limit=100, patience_s=patience_s)


async def test_one_lane_while_none_is_held_up(transactions: Transactions) -> None:
    """Whatever waits joins the next transaction: different products, too."""
    lanes = _lanes(transactions, patience_s=60.0)
    first = transactions.gate("a")
    futures = [lanes.submit(_asked("a"))]
    await first.arrival()
    futures += [lanes.submit(_asked(product)) for product in "bca"]
    first.open()
    await asyncio.gather(*futures)
    assert transactions.begun == [("a",), ("b", "c", "a")]


async def test_a_product_stays_with_the_lane_that_is_held_up_with_it(transactions: Transactions) -> None:
    """Also when an earlier lane is free again: it would hold that one up, too. Others go by the free lane."""
    lanes = _lanes(transactions)
    a, b = transactions.gate("a"), transactions.gate("b")
    first = lanes.submit(_asked("a"))
    await a.arrival()
    second = lanes.submit(_asked("b"))
    await b.arrival()
    a.open()
    await first
    again = lanes.submit(_asked("b"))
    assert await lanes.submit(_asked("c")) == ("c",)
    assert transactions.begun == [("a",), ("b",), ("c",)]
    del transactions.gates["b",]
    b.open()
    assert [await second, await again] == [("b",), ("b",)]


async def test_nothing_is_remembered_of_what_is_done(transactions: Transactions) -> None:
    """Neither of requests that were served, nor of those whose callers left."""
    lanes = _lanes(transactions)
    gate = transactions.gate("a")
    first = lanes.submit(_asked("a"))
    await gate.arrival()
    left = lanes.submit(_asked("a"))
    left.cancel()
    gate.open()
    await first
    await lanes.aclose()
    assert [dict(in_hand) for in_hand in lanes._in_hand] == [{}, {}, {}]

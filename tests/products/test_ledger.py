"""The stock ledger on a real database: whoever changes a stock, and whatever comes between."""

import asyncio
from typing import LiteralString

import psycopg
import pytest

from app.products.commands import Adjust, Create, Effect, Put, Upsert, delete, set_stock
from app.products.errors import InsufficientStock
from app.products.idempotency import Origin
from app.products.product import Draft, Line, Movement, Precondition, Product, Reason
from app.settings import Settings
from tests.products.instances import Instance, by_hand, deviations, once, rows

pytestmark = pytest.mark.usefixtures("larder")


async def _ledger(larder: Instance, product_id: str) -> list[Movement]:
    return list((await larder.products.movements(product_id, limit=250)).items)


async def _take(larder: Instance, product_id: str, units: int = 1) -> Effect:
    return (await larder.products.write(Adjust([Line(product_id, -units)], Reason.SALE)))[0]


def _short(movements: list[Movement]) -> list[tuple[int, int, int, int, str]]:
    return [(m.version, m.line, m.delta, m.stock_after, m.reason.value) for m in movements]


async def test_every_road_to_a_stock_leaves_its_movement(larder: Instance, settings: Settings) -> None:
    """Opening, count, adjustment, whole product, batch, deletion and return to life: one ledger, newest first, that adds up."""
    products = larder.products
    await products.write(Create(Draft("a", "Mug", 100, 5)))
    await products.write(set_stock("a", 5, reference="count-1"))
    await products.write(Adjust([Line("a", 3)], Reason.RECEIPT, "delivery-1"))
    await products.write(Put(Draft("a", "Mug", 100, 7), Precondition(any_version=True)))
    await products.write(Upsert([Draft("a", "Cup", 100, 2)]))
    await products.write(Upsert([Draft("a", "Mug", 100)]))  # no stock in it: a version, and no movement
    await products.write(delete("a"))
    await products.write(Put(Draft("a", "Mug", 100)))
    assert _short(await _ledger(larder, "a")) == [
        (8, 0, 0, 0, "opening"),
        (7, 0, -2, 0, "deletion"),
        (5, 0, -5, 2, "count"),
        (4, 0, -1, 7, "count"),
        (3, 0, 3, 8, "receipt"),
        (2, 0, 0, 5, "count"),
        (1, 0, 5, 5, "opening"),
    ]
    assert await deviations(settings) == []
    by_reference = await products.movements_by_reference("delivery-1", limit=5)
    assert [(m.product_id, m.version) for m in by_reference.items] == [("a", 3)]


async def test_who_asked_is_kept_for_later(larder: Instance, settings: Settings) -> None:
    """Request id, actor and key stand beside the entry, and are not shown."""
    await larder.stock("a")
    for origin in (Origin("r-1", "somebody"), Origin("r-2", None, once("k").idempotency_key)):
        await larder.products.write(Adjust([Line("a", 1)], Reason.OTHER), origin)
    found = await rows(
        settings, "SELECT request_id, actor, idempotency_key FROM stock_movements WHERE version > 1 ORDER BY version"
    )
    assert found == [("r-1", "somebody", None), ("r-2", None, "k")]


async def test_a_hundred_takers_of_ten_units_take_ten(larder: Instance, other: Instance, settings: Settings) -> None:
    """On two instances at once: ten succeed, each refusal names the stock there was, and the ledger has ten sales."""
    await larder.stock("a")
    takers = [_take((larder, other)[number % 2], "a") for number in range(100)]
    results = await asyncio.gather(*takers, return_exceptions=True)
    taken = [result for result in results if not isinstance(result, BaseException)]
    refused = [result for result in results if isinstance(result, InsufficientStock)]
    assert (len(taken), len(refused)) == (10, 90)
    assert {shortage.available for refusal in refused for shortage in refusal.shortages} == {0}
    assert sorted(w.row.stock for w in taken if isinstance(w.row, Product)) == list(range(10))
    assert [m.stock_after for m in await _ledger(larder, "a")][:10] == list(range(10))
    assert await deviations(settings) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE products SET stock = stock - 4 WHERE id = 'a'", [(2, 0, -4, 6, "other", "sql")]),
        ("UPDATE products SET stock = 3, version = 9 WHERE id = 'a'", [(9, 0, -7, 3, "other", "sql")]),
        ("UPDATE products SET name = 'Cup' WHERE id = 'a'", []),
        ("DELETE FROM products WHERE id = 'a'", [(2, 0, -10, 0, "deletion", "sql")]),
        ("INSERT INTO products (id, name, price_cents, stock) VALUES ('b', 'Cup', 1, 3)", []),
        ("TRUNCATE products", [(2, 0, -10, 0, "deletion", "sql")]),
    ],
)
async def test_stock_that_sql_changed_by_hand_is_in_the_ledger(
    larder: Instance, settings: Settings, statement: LiteralString, expected: list[tuple[object, ...]]
) -> None:
    """A trigger records what no service did, and the sums stay right; the service goes on from there."""
    await larder.stock("a")
    async with by_hand(settings) as connection:
        await connection.execute(statement)
    newer = (await _ledger(larder, "a"))[:-1]
    assert [(m.version, m.line, m.delta, m.stock_after, m.reason.value, m.reference) for m in newer] == expected
    await larder.products.write(Upsert([Draft("a", "Mug", 100, 8), Draft("b", "Mug", 100, 8)]))
    stocks = await rows(settings, "SELECT id, stock FROM products ORDER BY id")
    assert stocks == [("a", 8), ("b", 8)]
    assert await deviations(settings) == []


@pytest.mark.parametrize(
    "statement",
    ["UPDATE stock_movements SET delta = 0", "DELETE FROM stock_movements", "TRUNCATE stock_movements"],
)
async def test_a_movement_is_never_changed(larder: Instance, settings: Settings, statement: LiteralString) -> None:
    """Not by hand either: the database refuses, and says how a stock is corrected."""
    await larder.stock("a")
    async with by_hand(settings) as connection:
        with pytest.raises(psycopg.errors.CheckViolation, match="never changed"):
            await connection.execute(statement)
    assert len(await _ledger(larder, "a")) == 1


async def test_in_a_joined_batch_each_request_is_served_as_if_alone(larder: Instance, settings: Settings) -> None:
    """Every one has its own version, stock, entry and refusal, in the order of arrival."""
    await larder.stock("a")
    units = [4, 100, 3, 2, 5, 1]
    results = await asyncio.gather(*(_take(larder, "a", number) for number in units), return_exceptions=True)
    told: list[object] = []
    for result in results:
        if isinstance(result, InsufficientStock):
            told.append((result.shortages[0].available, result.shortages[0].version))
        elif isinstance(result, Effect) and isinstance(result.row, Product):
            told.append(result.row.stock)
    assert told == [6, (6, 2), 3, 1, (1, 4), 0]
    assert [m.delta for m in await _ledger(larder, "a")] == [-1, -2, -3, -4, 10]
    assert len(await rows(settings, "SELECT DISTINCT created_at FROM stock_movements WHERE reason = 'sale'")) <= 2


async def test_a_deleted_and_recreated_product_in_one_batch_is_a_new_one(larder: Instance, settings: Settings) -> None:
    """Its version and ledger go on, its creation is its own."""
    await larder.stock("a")
    [[before]] = await rows(settings, "SELECT created_at FROM products")
    commands = (Adjust([Line("a", -1)], Reason.SALE), delete("a"), Create(Draft("a", "Cup", 1, 4)))
    results = await asyncio.gather(*map(larder.products.write, commands))
    assert [effect.row.version for [effect] in results] == [2, 3, 4]
    again = results[2][0].row
    assert isinstance(again, Product)
    assert again.created_at > before
    assert _short(await _ledger(larder, "a"))[:3] == [
        (4, 0, 4, 4, "opening"),
        (3, 0, -9, 0, "deletion"),
        (2, 0, -1, 9, "sale"),
    ]
    assert await deviations(settings) == []

"""TCK: invoke and invokeAll, here commands that are decided on locked rows, write their outcome through."""

import pytest

from app.postgres.errors import DatabaseError, DatabaseFailed
from app.products.commands import Change, Create, Put, Upsert, delete, merge_patch, set_stock
from app.products.errors import ProductsMissing
from app.products.product import Patch
from tests.tck.shop import KEPT, REFUSED, Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMES = [f"p{number}" for number in range(10)]


async def test_command_creates(shop: Shop) -> None:
    """A command that makes a product of nothing fills row and slot."""
    await shop.wrote(shop.together(Create(shop.draft("mug", 500))))
    await shop.has("mug", 500, 1)


async def test_commands_create_many(shop: Shop) -> None:
    """Ten commands at once fill ten rows and ten slots."""
    await shop.wrote(*(shop.at.products.write(Create(shop.draft(name, 500 + int(name[1:])))) for name in NAMES))
    for name in NAMES:
        await shop.has(name, 500 + int(name[1:]), 1)


async def test_command_updates(shop: Shop) -> None:
    """A command that changes what it finds, some fields or the stock alone, changes row and slot."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    await shop.wrote(shop.at.products.write(merge_patch(shop.id("mug"), Patch(price_cents=600))))
    await shop.has("mug", 600, 2)
    await shop.wrote(shop.at.products.write(set_stock(shop.id("mug"), 12)))
    await shop.has("mug", 600, 3, stock=12)


async def test_commands_update_many(shop: Shop) -> None:
    """Ten commands at once, each on a row of its own, change ten rows and ten slots."""
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in NAMES])))
    await shop.wrote(*(shop.at.products.write(set_stock(shop.id(name), 40)) for name in NAMES))
    for name in NAMES:
        await shop.has(name, 100, 2, stock=40)


async def test_commands_update_one_many_times_at_once(shop: Shop) -> None:
    """Ten commands at once on one row count each: ten versions, and everybody reads the last."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug"))))
    effects = await shop.wrote(*(shop.at.products.write(set_stock(shop.id("mug"), 7)) for _ in range(10)))
    assert sorted(effect.row.version for effect in effects) == list(range(2, 12))
    await shop.has("mug", 100, 11, stock=7)


async def test_command_removes(shop: Shop) -> None:
    """A command that deletes what it finds leaves a tombstone in row and slot."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug"))))
    await shop.wrote(shop.together(delete(shop.id("mug"))))
    await shop.has_no("mug", 2)


async def test_commands_remove_many(shop: Shop) -> None:
    """Ten deletions at once leave ten tombstones."""
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in NAMES])))
    await shop.wrote(*(shop.at.products.write(delete(shop.id(name))) for name in NAMES))
    for name in NAMES:
        await shop.has_no(name, 2)


async def test_command_removes_nothing(shop: Shop) -> None:
    """A command that finds nothing to delete leaves neither row nor entry."""
    await shop.failed(ProductsMissing, shop.together(delete(shop.id("mug"))))
    assert await shop.rows() == {}


async def test_removed_and_created_in_one_transaction(shop: Shop) -> None:
    """Only the last state of a row is published: the new product, never the tombstone between."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    effects = await shop.wrote(shop.together(delete(shop.id("mug")), Put(shop.draft("mug", 900))))
    assert [effect.change for effect in effects] == [Change.DELETED, Change.CREATED]
    await shop.has("mug", 900, 3)


async def test_created_and_removed_in_one_transaction(shop: Shop) -> None:
    """Nobody ever sees the product; the tombstone that stays keeps its version for the id's next life."""
    await shop.wrote(shop.together(Create(shop.draft("mug")), delete(shop.id("mug"))))
    await shop.has_no("mug", 2)


async def test_every_error_of_the_writer_is_one_of_the_house(shop: Shop) -> None:
    """Whatever the verb, a commit that PostgreSQL refuses is a DatabaseError, with the driver's error as its cause."""
    products = shop.at.products
    await shop.wrote(products.write(Upsert([shop.draft("old"), shop.draft("kept", ending=KEPT)])))
    bad = shop.draft("new", ending=REFUSED)
    for writing in (
        products.write(Create(bad)),
        products.write(Put(bad)),
        products.write(Upsert([bad, shop.draft("good")])),
        products.write(merge_patch(shop.id("old"), Patch(name=bad.name))),
        products.write(delete(shop.id("kept"))),
        shop.together(delete(shop.id("old")), Create(bad)),
    ):
        error = await shop.failed(DatabaseError, writing)
        assert isinstance(error, DatabaseFailed)
        assert "the test refuses this" in str(error.__cause__)
    await shop.has("old", 100, 1)
    await shop.has("kept", 100, 1)
    await shop.has_no("new")
    await shop.has_no("good")

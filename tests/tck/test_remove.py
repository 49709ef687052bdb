"""TCK: remove, getAndRemove, iterator.remove and removeAll write a tombstone through, or nothing at all."""

import json

import pytest

from app.postgres.errors import DatabaseFailed
from app.products.commands import Create, Put, Upsert, delete
from app.products.errors import PreconditionFailed, ProductsMissing
from app.products.product import Precondition
from tests.tck.shop import KEPT, Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMES = ["mug", "jug", "cup"]


async def test_remove_of_a_missing_product(shop: Shop) -> None:
    """Nothing is there to delete: no tombstone, no entry, and an error that says so."""
    await shop.failed(ProductsMissing, shop.at.products.write(delete(shop.id("mug"))))
    assert await shop.rows() == {}
    await shop.has_no("mug")


async def test_remove_of_an_existing_product(shop: Shop) -> None:
    """A deleted product is a tombstone in its row and in its slot."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug"))))
    await shop.wrote(shop.at.products.write(delete(shop.id("mug"))))
    await shop.has_no("mug", 2)


async def test_remove_several_times(shop: Shop) -> None:
    """Only the first deletion finds anything; the others leave tombstone and version as they are."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug"))))
    await shop.wrote(shop.at.products.write(delete(shop.id("mug"))))
    for _ in range(2):
        await shop.failed(ProductsMissing, shop.at.products.write(delete(shop.id("mug"))))
    await shop.has_no("mug", 2)


async def test_remove_of_a_specific_state(shop: Shop) -> None:
    """Only the version that the caller names is deleted."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    key = shop.id("mug")
    await shop.failed(PreconditionFailed, shop.at.products.write(delete(key, Precondition(versions=frozenset({"9"})))))
    await shop.has("mug", 500, 1)
    first = Precondition(versions=frozenset({"1"}))
    await shop.wrote(shop.at.products.write(delete(key, first)))
    await shop.failed(ProductsMissing, shop.at.products.write(delete(key, first)))
    await shop.has_no("mug", 2)


async def test_remove_that_the_writer_refuses(shop: Shop) -> None:
    """A deletion whose commit fails leaves the product in its row and in its slot."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500, ending=KEPT))))
    await shop.failed(DatabaseFailed, shop.at.products.write(delete(shop.id("mug"))))
    await shop.has("mug", 500, 1)


async def test_remove_while_going_through_the_list(shop: Shop) -> None:
    """What is deleted from the list's own items is gone, what lies between them stays."""
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in NAMES])))
    page = await shop.at.products.list_page(limit=10, prefix=shop.mark + " ")
    first, _, third = (json.loads(item)["id"] for item in page.items)
    await shop.wrote(shop.at.products.write(delete(first)))
    await shop.wrote(shop.at.products.write(delete(third)))
    await shop.has_no("cup", 2)
    await shop.has("jug", 100, 1)
    await shop.has_no("mug", 2)


async def test_remove_of_all_and_put_of_all_again(shop: Shop) -> None:
    """All products go, and their next lives go on from their tombstones."""
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in NAMES])))
    await shop.wrote(*(shop.at.products.write(delete(shop.id(name))) for name in NAMES))
    for name in NAMES:
        await shop.has_no(name, 2)
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name, 700) for name in [*NAMES, "pot"]])))
    for name in NAMES:
        await shop.has(name, 700, 3)
    await shop.has("pot", 700, 1)


async def test_remove_of_all_with_one_that_the_writer_refuses(shop: Shop) -> None:
    """Of deletions at once, only the one that PostgreSQL refuses fails; its product is still there for every reader."""
    drafts = [shop.draft(name, ending=KEPT if name == "jug" else "good") for name in NAMES]
    await shop.wrote(shop.at.products.write(Upsert(drafts)))
    effects, errors = await shop.tried(*(shop.at.products.write(delete(draft.id)) for draft in drafts))
    assert len(effects) == 2
    assert [type(error) for error in errors] == [DatabaseFailed]
    await shop.has_no("mug", 2)
    await shop.has("jug", 100, 1)
    await shop.has_no("cup", 2)


async def test_remove_of_some(shop: Shop) -> None:
    """Only those named go; one of them put again lives, and another deletion leaves it alone."""
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in [*NAMES, "pot"]])))
    await shop.wrote(*(shop.at.products.write(delete(shop.id(name))) for name in ("mug", "pot")))
    await shop.wrote(shop.at.products.write(Put(shop.draft("pot", 800))))
    await shop.wrote(shop.at.products.write(delete(shop.id("jug"))))
    await shop.has_no("mug", 2)
    await shop.has_no("jug", 2)
    await shop.has("cup", 100, 1)
    await shop.has("pot", 800, 3)


async def test_remove_of_some_with_one_that_the_writer_refuses(shop: Shop) -> None:
    """Of four deletions at once three go through; neither the refused one nor who was not named is touched."""
    names = [*NAMES, "pot", "pan"]
    drafts = [shop.draft(name, ending=KEPT if name == "cup" else "good") for name in names]
    await shop.wrote(shop.at.products.write(Upsert(drafts)))
    effects, errors = await shop.tried(*(shop.at.products.write(delete(shop.id(name))) for name in names[:4]))
    assert (len(effects), len(errors)) == (3, 1)
    for name in ("mug", "jug", "pot"):
        await shop.has_no(name, 2)
    for name in ("cup", "pan"):
        await shop.has(name, 100, 1)

"""TCK: replace and getAndReplace write through only where there is something to replace."""

import pytest

from app.postgres.errors import DatabaseFailed
from app.products.commands import Create, Put, merge_patch
from app.products.errors import PreconditionFailed, ProductsMissing
from app.products.product import Patch, Precondition
from tests.tck.shop import REFUSED, Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")

THERE = Precondition(any_version=True)


def at_version(version: int) -> Precondition:
    """Only if the product is at this version."""
    return Precondition(versions=frozenset({str(version)}))


async def test_replace_of_a_missing_product(shop: Shop) -> None:
    """Nothing is there to replace: no row, no entry, and an error that says so."""
    await shop.failed(PreconditionFailed, shop.at.products.write(Put(shop.draft("mug"), THERE)))
    await shop.failed(ProductsMissing, shop.at.products.write(merge_patch(shop.id("mug"), Patch(price_cents=5))))
    await shop.has_no("mug")


async def test_replace_of_an_existing_product(shop: Shop) -> None:
    """A product that is there is replaced in its row and in its slot."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    await shop.wrote(shop.at.products.write(Put(shop.draft("mug", 600), THERE)))
    await shop.has("mug", 600, 2)


async def test_replace_several_times(shop: Shop) -> None:
    """Refused while nothing is there, a replacement counts each time afterwards."""
    await shop.failed(PreconditionFailed, shop.at.products.write(Put(shop.draft("mug", 400), THERE)))
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    for version, price_cents in ((2, 600), (3, 700)):
        await shop.wrote(shop.at.products.write(Put(shop.draft("mug", price_cents), THERE)))
        await shop.has("mug", price_cents, version)


async def test_replace_that_matches(shop: Shop) -> None:
    """What is at the version that the caller names is replaced, and only once."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    await shop.wrote(shop.at.products.write(Put(shop.draft("mug", 600), at_version(1))))
    await shop.failed(PreconditionFailed, shop.at.products.write(Put(shop.draft("mug", 700), at_version(1))))
    await shop.wrote(shop.at.products.write(Put(shop.draft("mug", 700), at_version(2))))
    await shop.has("mug", 700, 3)


async def test_replace_that_does_not_match(shop: Shop) -> None:
    """What is at another version than the caller names keeps its row and its entry."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    error = await shop.failed(PreconditionFailed, shop.at.products.write(Put(shop.draft("mug", 600), at_version(9))))
    assert error.current_version == 1
    await shop.has("mug", 500, 1)


@pytest.mark.parametrize("verb", ["put", "patch"])
async def test_replace_that_the_writer_refuses(shop: Shop, verb: str) -> None:
    """A replacement whose commit fails leaves row and entry as they were."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    bad = shop.draft("mug", 600, ending=REFUSED)
    products = shop.at.products
    await shop.failed(
        DatabaseFailed,
        products.write(Put(bad, THERE) if verb == "put" else merge_patch(bad.id, Patch(bad.name, bad.price_cents))),
    )
    await shop.has("mug", 500, 1)

"""TCK: reads of whatever kind write nothing through."""

import asyncio

import pytest

from app.cache.ports import Absent
from app.products.commands import Create, Upsert
from tests.tck.shop import Shop

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_read_of_a_missing_product(shop: Shop) -> None:
    """Asking for a product that never was changes no row; the answer is its absence, also where nothing can be stored."""
    for process in (shop.at, shop.other):
        assert (await process.products.get(shop.id("mug"))).state == Absent(
            shop.id("mug"), (await process.source.standing()).epoch, 0
        )
    assert await shop.rows() == {}
    await shop.has_no("mug")


async def test_read_of_an_existing_product(shop: Shop) -> None:
    """Asking for a product that is there changes no row, whether its slot answers or PostgreSQL."""
    await shop.wrote(shop.at.products.write(Create(shop.draft("mug", 500))))
    before = await shop.rows()
    await shop.at.products.get(shop.id("mug"))
    shop.at.products.peek(shop.id("mug"), asyncio.get_running_loop().create_future().set_result)
    await shop.slots.evict(shop.id("mug"))
    await shop.at.products.get(shop.id("mug"))
    assert await shop.rows() == before
    await shop.look(shop.other, shop.id("mug"))


async def test_read_of_many(shop: Shop) -> None:
    """Asking for several products, missing and there, changes no row and answers each."""
    names = ["mug", "jug", "cup", "pot"]
    ids = [shop.id(name) for name in names]
    assert [read.state.version for read in await shop.at.products.get_many(ids)] == [0, 0, 0, 0]
    await shop.wrote(*(shop.at.products.write(Create(shop.draft(name))) for name in names))
    before = await shop.rows()
    assert [read.state.version for read in await shop.at.products.get_many(ids)] == [1, 1, 1, 1]
    assert await shop.rows() == before


async def test_list_of_all(shop: Shop) -> None:
    """Going through the list changes no row, and shows what was written."""
    names = ["cup", "jug", "mug"]
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in names])))
    before = await shop.rows()
    page = await shop.at.products.list_page(limit=10, prefix=shop.mark + " ")
    assert len(page.items) == 3
    assert all(f'"id":"{shop.id(name)}"'.encode() in item for name, item in zip(names, page.items, strict=True))
    assert await shop.rows() == before


async def test_refresh_of_many(shop: Shop) -> None:
    """Loading entries anew changes no row, and no entry into an older one."""
    names = ["mug", "jug"]
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in names])))
    before = await shop.rows()
    reads = await shop.at.products.get_many([shop.id(name) for name in [*names, "never"]], refresh=True)
    assert [read.state.version for read in reads] == [1, 1, 0]
    assert await shop.rows() == before
    for name in names:
        await shop.has(name, 100, 1)

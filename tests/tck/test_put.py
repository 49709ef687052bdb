"""TCK: put, getAndPut, putIfAbsent and putAll write through, and leave the cache alone when the writer fails."""

import pytest

from app.postgres.errors import DatabaseFailed
from app.products.commands import Change, Create, Put, Upsert
from app.products.errors import AlreadyExists, PreconditionFailed
from app.products.product import Precondition
from tests.tck.shop import REFUSED, Shop, Trouble

pytestmark = pytest.mark.asyncio(loop_scope="session")

ABSENT_ONLY = Precondition(create_only=True)


async def test_put_of_one(shop: Shop) -> None:
    """A product that is put is in its row and in its slot."""
    await shop.wrote(shop.at.products.write(Put(shop.draft("mug", 500))))
    await shop.has("mug", 500, 1)


async def test_put_of_one_several_times(shop: Shop) -> None:
    """Each put is a write of its own, and the last one is what everybody reads."""
    for version, price_cents in enumerate((500, 600, 700), start=1):
        await shop.wrote(shop.at.products.write(Put(shop.draft("mug", price_cents))))
        await shop.has("mug", price_cents, version)


async def test_put_of_the_same_several_times(shop: Shop) -> None:
    """A put that changes nothing writes nothing, but it is published (or settled) like the one that did."""
    published = len(shop.at.store.publications)
    changes = [(await shop.wrote(shop.at.products.write(Put(shop.draft("mug")))))[0].change for _ in range(3)]
    assert changes == [Change.CREATED, Change.UNCHANGED, Change.UNCHANGED]
    assert len(shop.at.store.publications) >= published + 3
    await shop.has("mug", 100, 1)


async def test_put_of_different_products(shop: Shop) -> None:
    """Puts of several products do not touch one another."""
    for number, name in enumerate(("mug", "jug", "cup"), start=1):
        await shop.wrote(shop.at.products.write(Put(shop.draft(name, number))))
    for number, name in enumerate(("mug", "jug", "cup"), start=1):
        await shop.has(name, number, 1)


async def test_answer_of_a_put_is_what_is_read(shop: Shop) -> None:
    """The answer to a write has the version and the values that every reader gets from then on."""
    [effect] = await shop.wrote(shop.at.products.write(Put(shop.draft("mug", 321, stock=7))))
    assert effect.row.version == 1
    await shop.has("mug", 321, 1, stock=7)


async def test_put_that_the_writer_refuses(shop: Shop) -> None:
    """A commit that fails leaves no row, no entry and no settling behind, of a new product or of a known one."""
    await shop.failed(DatabaseFailed, shop.at.products.write(Put(shop.draft("mug", ending=REFUSED))))
    await shop.has_no("mug")
    await shop.wrote(shop.at.products.write(Put(shop.draft("jug", 500))))
    await shop.failed(DatabaseFailed, shop.at.products.write(Put(shop.draft("jug", 600, ending=REFUSED))))
    await shop.has("jug", 500, 1)


async def test_put_if_absent_several_times(shop: Shop) -> None:
    """Only the first creates; the others are refused and change neither row nor entry."""
    await shop.wrote(shop.at.products.write(Put(shop.draft("mug", 500), ABSENT_ONLY)))
    await shop.failed(PreconditionFailed, shop.at.products.write(Put(shop.draft("mug", 600), ABSENT_ONLY)))
    await shop.failed(AlreadyExists, shop.at.products.write(Create(shop.draft("mug", 700))))
    await shop.has("mug", 500, 1)


async def test_put_of_all(shop: Shop) -> None:
    """A batch writes each of its products through; once more, with one added, it leaves the others as they are."""
    names = ["mug", "jug", "cup"]
    await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in names])))
    for name in names:
        await shop.has(name, 100, 1)
    effects = await shop.wrote(shop.at.products.write(Upsert([shop.draft(name) for name in [*names, "pot"]])))
    assert [effect.change for effect in effects] == [Change.UNCHANGED] * 3 + [Change.CREATED]
    for name in [*names, "pot"]:
        await shop.has(name, 100, 1)


async def test_put_of_all_with_one_that_the_writer_refuses(shop: Shop) -> None:
    """A batch is one transaction: what PostgreSQL refuses in one product changes no row and no entry of any."""
    await shop.wrote(shop.at.products.write(Put(shop.draft("mug", 500))))
    drafts = [shop.draft("mug", 600), shop.draft("jug"), shop.draft("cup", ending=REFUSED), shop.draft("pot")]
    await shop.failed(DatabaseFailed, shop.at.products.write(Upsert(drafts)))
    await shop.has("mug", 500, 1)
    for name in ("jug", "cup", "pot"):
        await shop.has_no(name)


async def test_puts_at_once_with_one_that_the_writer_refuses(shop: Shop) -> None:
    """Requests that happened to share a transaction do not share its failure: only the guilty one hears of it."""
    names = ["mug", "jug", "cup", "pot", "pan", "bowl"]
    drafts = [shop.draft(name, ending=REFUSED if name == "cup" else "good") for name in names]
    effects, errors = await shop.tried(*(shop.at.products.write(Put(draft)) for draft in drafts))
    assert len(effects) == 5
    assert [type(error) for error in errors] == [DatabaseFailed]
    for name in names:
        await (shop.has_no(name) if name == "cup" else shop.has(name, 100, 1))


async def test_twins_do_fail(shop: Shop) -> None:
    """The twins are not idle: their writes are acknowledged without a single answer to a publish."""
    stats = shop.at.stats
    answered, failed = sum(stats.publishes.values()), stats.publish_failures
    await shop.wrote(shop.at.products.write(Put(shop.draft("mug"))))
    works = shop.trouble is Trouble.NONE
    assert sum(stats.publishes.values()) - answered == (1 if works else 0)
    assert (stats.publish_failures > failed) is not works

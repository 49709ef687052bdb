"""Writes of every kind, each three times: with a cache that works, that refuses publishes, and that loses their replies.

Whatever becomes of a publish, the request succeeds as before, having settled, and no reader sees the past. After each step
row, slot and the answers of both processes are compared, version and bytes.
"""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from app.cache.ports import Absent
from app.postgres.errors import DatabaseFailed
from app.products.commands import Change, Command, Create, Put, Upsert, delete, merge_patch, set_stock
from app.products.errors import AlreadyExists, PreconditionFailed, ProductsMissing, ReservationExpired
from app.products.product import Patch, Precondition
from app.products.reservation import Part, RequestedLine, Reservation
from app.products.reservation_commands import Commit, Reserve
from tests.cache.conftest import Slots
from tests.cache.rig import LONG_FENCE, open_process, until
from tests.cache.shop import COMMIT_FAILS, KEPT, REFUSED, Shop, Trouble, product, stop
from tests.limits import cache_config

ABSENT_ONLY = Precondition(create_only=True)
THERE = Precondition(any_version=True)
NAMES = ["mug", "jug", "cup", "pot", "pan", "bowl"]

AN_HOUR_LATER = """
CREATE OR REPLACE FUNCTION larder_moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    $$SELECT clock_timestamp() + interval '1 hour'$$
"""
"""Ends reservations."""

QUICK_AUDITS = cache_config(audit_interval_ms=20, fence_ttl_ms=2_000, fence_ttl_max_ms=2_000, settle_poll_ms=5)
"""Settling waits for an audit: these come often."""


@pytest.fixture(params=list(Trouble), ids=str)
async def shop(
    request: pytest.FixtureRequest, redis_url: str, database_url: str, namespace: str, slots: Slots
) -> AsyncIterator[Shop]:
    """An empty catalogue behind a cache that is proven current; the process that does not write audits."""
    trouble = Trouble(request.param)
    works = trouble is Trouble.NONE
    config = LONG_FENCE if works else QUICK_AUDITS
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as database,
        open_process(redis_url, database_url, namespace, config=config) as at,
        open_process(redis_url, database_url, namespace, config=config, audited=not works) as other,
    ):
        await database.execute(COMMIT_FAILS)
        if works:
            await other.trust()

        async def proven() -> bool:
            return bool((await other.slots.read(())).epoch)

        await until(proven)
        shop = Shop(at, other, slots, database, trouble)
        shop.start()
        watching = asyncio.create_task(shop.watch())
        try:
            yield shop
        finally:
            await stop(watching)
        shop.judge()


@pytest.mark.guarantee("R3", "R4")
async def test_trouble_is_real(shop: Shop) -> None:
    """With a cache that fails, writes are acknowledged without a single answer to a publish."""
    stats = shop.at.stats
    answered, failed = sum(stats.publishes.values()), stats.publish_failures
    await shop.wrote(Put(product("mug")))
    works = shop.trouble is Trouble.NONE
    assert sum(stats.publishes.values()) - answered == (1 if works else 0)
    assert (stats.publish_failures > failed) is not works


@pytest.mark.guarantee("R4")
async def test_create_put_patch_and_count(shop: Shop) -> None:
    """Each write of one product gives it a version, and the last one is what everybody reads."""
    await shop.wrote(Create(product("mug", 500, stock=7)))
    await shop.has("mug", 500, 1, stock=7)
    await shop.wrote(Put(product("mug", 600)))
    await shop.has("mug", 600, 2, stock=7)
    await shop.wrote(merge_patch("mug", Patch(price_cents=700)))
    await shop.has("mug", 700, 3, stock=7)
    await shop.wrote(set_stock("mug", 12))
    await shop.has("mug", 700, 4, stock=12)


@pytest.mark.guarantee("R10")
async def test_put_of_the_same_several_times(shop: Shop) -> None:
    """R10: a put that changes nothing writes nothing, but it is published (or settled) like the one that did."""
    published = len(shop.at.store.publications)
    changes = [(await shop.wrote(Put(product("mug"))))[0].change for _ in range(3)]
    assert changes == [Change.CREATED, Change.UNCHANGED, Change.UNCHANGED]
    assert len(shop.at.store.publications) >= published + 3
    await shop.has("mug", 100, 1)


@pytest.mark.guarantee("R8")
async def test_delete_and_create_again(shop: Shop) -> None:
    """R8: a deletion leaves a tombstone in row and slot, and the id's next life goes on from its version."""
    await shop.wrote(Create(product("mug")))
    await shop.wrote(delete("mug"))
    await shop.has_no("mug", 2)
    await shop.refused(ProductsMissing, delete("mug"))
    await shop.has_no("mug", 2)
    await shop.wrote(Put(product("mug", 700)))
    await shop.has("mug", 700, 3)


async def test_condition_that_fails(shop: Shop) -> None:
    """A request that the rules refuse changes neither row nor entry, of a product that is there or was never."""
    await shop.refused(PreconditionFailed, Put(product("mug"), THERE))
    await shop.refused(ProductsMissing, merge_patch("mug", Patch(price_cents=5)))
    await shop.has_no("mug")
    await shop.wrote(Put(product("mug", 500), ABSENT_ONLY))
    await shop.refused(PreconditionFailed, Put(product("mug", 600), ABSENT_ONLY))
    await shop.refused(AlreadyExists, Create(product("mug", 700)))
    error = await shop.refused(PreconditionFailed, delete("mug", Precondition(versions=frozenset({"9"}))))
    assert error.current_version == 1
    await shop.has("mug", 500, 1)


@pytest.mark.guarantee("G2")
async def test_commit_that_fails(shop: Shop) -> None:
    """Whatever the verb, a commit that PostgreSQL refuses changes no row and no entry, and its cause is told."""
    await shop.wrote(Upsert([product("old"), product("kept", ending=KEPT)]))
    bad = product("new", ending=REFUSED)
    for writing in (
        Create(bad),
        Put(bad),
        Put(product("old", 600, ending=REFUSED)),
        Upsert([bad, product("good")]),
        merge_patch("old", Patch(name=bad.name)),
        delete("kept"),
        [delete("old"), Create(bad)],
    ):
        error = await shop.refused(DatabaseFailed, writing)
        assert "the test refuses this" in str(error.__cause__)
    await shop.has("old", 100, 1)
    await shop.has("kept", 100, 1)
    for name in ("new", "good"):
        await shop.has_no(name)


async def test_batch_of_many(shop: Shop) -> None:
    """A batch writes each of its products through; once more, with one added, it leaves the others as they are."""
    await shop.wrote(Upsert([product(name) for name in NAMES[:3]]))
    effects = await shop.wrote(Upsert([product(name) for name in NAMES[:4]]))
    assert [effect.change for effect in effects] == [Change.UNCHANGED] * 3 + [Change.CREATED]
    for name in NAMES[:4]:
        await shop.has(name, 100, 1)


@pytest.mark.parametrize("deleting", [False, True], ids=["puts", "deletions"])
async def test_requests_at_once_of_which_one_fails(shop: Shop, *, deleting: bool) -> None:
    """Requests that happened to share a transaction do not share its failure: only the guilty one hears of it."""
    ending = KEPT if deleting else REFUSED
    drafts = [product(name, ending=ending if name == "cup" else "good") for name in NAMES]
    writings: list[Command] = [Put(draft) for draft in drafts]
    if deleting:
        await shop.wrote(Upsert(drafts))
        writings = [delete(draft.id) for draft in drafts]
    effects, errors = await shop.tried(*writings, Create(product("tray")), merge_patch("never", Patch(price_cents=1)))
    assert len(effects) == len(NAMES)
    assert {type(error) for error in errors} == {DatabaseFailed, ProductsMissing}
    for name in NAMES:
        if (name == "cup") is deleting:
            await shop.has(name, 100, 1)
        else:
            await shop.has_no(name, 2 if deleting else 0)


@pytest.mark.guarantee("R4")
async def test_holds_of_two_products(shop: Shop) -> None:
    """A hold, a sale of a part of it, and a refusal because it has ended: each is seen by whoever reads after the answer."""
    await shop.wrote(Upsert([product("mug", stock=5), product("jug", stock=5)]))
    made = await shop.reserved(Reserve([RequestedLine("mug", 2), RequestedLine("jug", 1)], 60), "mug", "jug")
    assert isinstance(made, Reservation)
    await shop.reserved(Commit(made.id, [Part(0, 1)]), "mug")
    await shop.has("mug", 100, 3, stock=4)
    await shop.has("jug", 100, 2, stock=5)
    await shop.database.execute(AN_HOUR_LATER)
    assert isinstance(await shop.reserved(Commit(made.id), "mug", "jug"), ReservationExpired)
    await shop.has("mug", 100, 4, stock=4)
    await shop.has("jug", 100, 3, stock=5)


async def test_one_product_many_times_at_once(shop: Shop) -> None:
    """Ten requests at once on one row give ten versions, and everybody reads the last."""
    await shop.wrote(Create(product("mug")))
    effects = await shop.wrote(*(set_stock("mug", 7) for _ in range(10)))
    assert sorted(effect.row.version for effect in effects) == list(range(2, 12))
    await shop.has("mug", 100, 11, stock=7)


async def test_removed_and_created_in_one_transaction(shop: Shop) -> None:
    """Only the last state of a row is published: the new product, never the tombstone between."""
    await shop.wrote(Create(product("mug", 500)))
    effects = await shop.wrote([delete("mug"), Put(product("mug", 900))])
    assert [effect.change for effect in effects] == [Change.DELETED, Change.CREATED]
    await shop.has("mug", 900, 3)


async def test_created_and_removed_in_one_transaction(shop: Shop) -> None:
    """Nobody ever sees the product; the tombstone that stays keeps its version for the id's next life."""
    await shop.wrote([Create(product("mug")), delete("mug")])
    await shop.has_no("mug", 2)


async def test_reads_write_nothing(shop: Shop) -> None:
    """Reads of whatever kind, hits, misses, lists and refreshes, change no row, and no entry into an older one."""
    await shop.wrote(Upsert([product(name) for name in NAMES[:3]]))
    before = await shop.rows()
    service = shop.at.products
    assert isinstance((await service.get("never")).state, Absent)
    service.peek("mug", asyncio.get_running_loop().create_future().set_result)
    await shop.slots.evict("mug")
    await service.get("mug")
    assert len((await service.list_page(limit=10)).items) == 3
    reads = await service.get_many([*NAMES[:3], "never"], refresh=True)
    assert [read.state.version for read in reads] == [1, 1, 1, 0]
    assert await shop.rows() == before
    await until(lambda: shop.look(shop.other, *NAMES[:3]))
    for name in NAMES[:3]:
        await shop.has(name, 100, 1)

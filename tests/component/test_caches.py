"""Caches of several tables in one process: keys, lives, writes over several tables, and one loop of audits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import redis.asyncio

from app import main
from app.cache import (
    Absent,
    Caches,
    CommitUnknown,
    Entity,
    InvalidKey,
    Limits,
    NotSettled,
    Session,
    Status,
    Value,
    open_caches,
)
from app.cache.redis.store import Names
from app.settings import Settings
from tests.component.conftest import LIMITS, Tables
from tests.contracts.entities import COUNTERS, SUPPLIERS


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(0.01)


async def all_hit(caches: Caches, tables: Tables) -> None:
    """Return once each table is read from a cache that is proven current."""
    for entity, key in ((tables.products, "mug"), (tables.suppliers, "acme"), (tables.counters, 7)):

        async def hit(entity: object = entity, key: object = key) -> bool:
            return (await caches[entity].read(key)).status is Status.HIT  # type: ignore[index,arg-type]  # of the loop

        await until(hit)


def test_limits_are_those_of_the_settings() -> None:
    """A service of its own has the defaults of Larder."""
    assert replace(main.cache_limits(Settings.from_env({})), ttl_max_s=Limits().ttl_max_s) == Limits()


async def test_three_tables(caches: Caches, tables: Tables) -> None:
    """Tables of different keys are read through caches of their own, which no other's fence or slot concerns."""
    await all_hit(caches, tables)
    [first, never, again] = await caches[tables.counters].read_many([7, 8, "7"])
    assert (isinstance(first.state, Value), first.state.version, again) == (True, 1, first)
    assert never.state == Absent("8", first.state.epoch, 0)
    assert isinstance((await caches[tables.products].read("acme")).state, Absent)
    assert {stats.hits > 0 for stats in caches.stats.values()} == {True}


@pytest.mark.parametrize(
    ("entity", "key"),
    [
        *((COUNTERS, key) for key in ("007", "+7", " 7", "7.0", "seven", str(2**63), "")),
        *((SUPPLIERS, key) for key in ("", "a\nb", "a\x00", "\ud800", "x" * 513)),
        *((replace(COUNTERS, key_type="uuid"), key) for key in ("7", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")),
    ],
)
def test_another_spelling_of_a_key(entity: Entity, key: str) -> None:
    """A row has one spelling in the cache: by another one a reader would miss its writes."""
    with pytest.raises(InvalidKey):
        entity.key_text(key)


async def test_policy_by_its_name(tables: Tables, redis_url: str) -> None:
    """An entity's policy may be given as text, as that of a write may; another text is refused."""
    with pytest.raises(ValueError, match="beside"):
        replace(tables.counters, writes="beside")
    around = replace(tables.counters, writes="around")
    async with open_caches(tables.database_url, redis_url, [around], limits=LIMITS) as caches:

        async def change(db: Session) -> None:
            await db.rows("UPDATE counters SET total = 71 WHERE number = 7")

        settles = caches.stats[around.namespace].settles
        await caches[around].write([7], change)
        assert caches.stats[around.namespace].settles == settles + 1
        assert caches.stats[around.namespace].publishes.total() == 0


@pytest.mark.guarantee("G1")
async def test_write_over_two_tables(caches: Caches, tables: Tables) -> None:
    """One transaction changes both; both are published, and each answer has what was asked for."""
    await all_hit(caches, tables)

    async def change(db: Session) -> None:
        await db.rows("UPDATE suppliers SET terms = 9 WHERE id = 'acme'")
        await db.rows("UPDATE counters SET total = 71 WHERE number = 7")

    states = await caches.write({tables.suppliers: ["acme", "nobody"], tables.counters: [7]}, change)
    assert {key: state.version for key, state in states[tables.suppliers].items()} == {"acme": 2, "nobody": 0}
    assert states[tables.counters][7].version == 2
    for entity, key in ((tables.suppliers, "acme"), (tables.counters, 7)):
        read = await caches[entity].read(key)
        assert (read.status, read.state) == (Status.HIT, states[entity][key])


@pytest.mark.guarantee("R2")
async def test_caller_who_leaves_a_write_over_two_tables(tables: Tables, redis_url: str, slots: redis.asyncio.Redis) -> None:
    """At whatever step the caller is cancelled, no lease is left, which nobody could fill before it expires."""
    names: list[str] = []

    async def change(db: Session) -> None:
        del db
        await asyncio.Event().wait()

    async def none_left() -> bool:
        return int(await slots.exists(*names)) == 0

    limits = replace(LIMITS, lease_ttl_ms=60_000)
    async with open_caches(tables.database_url, redis_url, tables.entities, limits=limits) as caches:
        await all_hit(caches, tables)
        for steps in range(0, 240, 4):
            write = asyncio.create_task(
                caches.write({tables.suppliers: [f"s{steps}"], tables.counters: [1_000 + steps]}, change)
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            write.cancel()
            await asyncio.gather(write, return_exceptions=True)
            assert write.cancelled()
            names += [Names(tables.suppliers.cache_name).prefix + f"s{steps}"]
            names += [Names(tables.counters.cache_name).prefix + str(1_000 + steps)]
        await until(none_left)


@pytest.mark.guarantee("G1", "R3")
async def test_rows_that_a_write_does_not_name(caches: Caches, tables: Tables) -> None:
    """What a transaction changed is published although its caller named other keys, deletions too."""
    await all_hit(caches, tables)
    await tables.hand.execute("INSERT INTO suppliers (id, name, terms) VALUES ('bolt', 'Bolt', 1)")
    assert (await caches[tables.suppliers].read("bolt")).state.version == 1

    async def change(db: Session) -> None:
        await db.rows("UPDATE suppliers SET terms = 2 WHERE id = 'bolt'")
        await db.rows("DELETE FROM suppliers WHERE id = 'acme'")

    assert await caches[tables.suppliers].write([], change) == {}
    assert (await caches[tables.suppliers].read("bolt")).state.version == 2
    gone = await caches[tables.suppliers].read("acme")
    assert (type(gone.state), gone.state.version) == (Absent, 2)


@pytest.mark.guarantee("G2")
async def test_change_that_raises(caches: Caches, tables: Tables) -> None:
    """What a change raises rolls back, reaches the caller, and costs no connection."""
    await all_hit(caches, tables)

    async def change(db: Session) -> None:
        await db.rows("UPDATE suppliers SET terms = 9 WHERE id = 'acme'")
        raise LookupError("no")

    async def ends(db: Session) -> None:
        await db.rows("COMMIT")

    for _ in range(30):
        with pytest.raises(LookupError, match="no"):
            await caches[tables.suppliers].write(["acme"], change)
    with pytest.raises(CommitUnknown):
        await caches[tables.suppliers].write(["acme"], ends)
    assert (await caches[tables.suppliers].read("acme", refresh=True)).state.version == 1


async def test_deferred_trigger(caches: Caches, tables: Tables) -> None:
    """A trigger that waits for the end of the transaction changes the row before it is read back, not after."""
    await tables.hand.execute(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE suppliers SET name = 'late' WHERE id = NEW.id AND name <> 'late'; RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON suppliers DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION late()"
    )
    await all_hit(caches, tables)

    async def change(db: Session) -> None:
        await db.rows("UPDATE suppliers SET terms = 9 WHERE id = 'acme'")

    states = await caches[tables.suppliers].write(["acme"], change)
    assert states["acme"].version == 3
    assert (await caches[tables.suppliers].read("acme")).state == states["acme"]


async def test_lives(caches: Caches, tables: Tables, slots: redis.asyncio.Redis) -> None:
    """A read or a write that fills a slot sets its life; a slot that is kept keeps its life; a life has a limit."""
    await all_hit(caches, tables)
    cache, name = caches[tables.suppliers], Names(tables.suppliers.cache_name).prefix + "acme"

    async def life_s() -> float:
        return float(await slots.pttl(name)) / 1000

    await cache.invalidate("acme")
    assert (await cache.read("acme", ttl_s=50)).status is Status.STORED
    assert 40 < await life_s() <= 50
    await cache.read("acme", ttl_s=500)
    assert await life_s() <= 50

    async def change(db: Session) -> None:
        await db.rows("UPDATE suppliers SET terms = terms + 1 WHERE id = 'acme'")

    await cache.write(["acme"], change, ttl_s=600)
    assert 500 < await life_s() <= 600
    for ttl_s in (0, -1, LIMITS.ttl_max_s + 1):
        with pytest.raises(ValueError, match="ttl_s"):
            await cache.read("acme", ttl_s=ttl_s)


@pytest.mark.guarantee("G4")
async def test_one_table_that_fails(caches: Caches, tables: Tables) -> None:
    """A table whose triggers are off is not trusted any more; the audits of the others go on, and it comes back by itself."""
    await all_hit(caches, tables)
    await tables.hand.execute("ALTER TABLE suppliers DISABLE TRIGGER zz_larder_change")
    stats = caches.stats
    failing, others = stats[tables.suppliers.namespace], [stats[e.namespace] for e in (tables.products, tables.counters)]
    failures, audits = failing.audit_failures, [other.audits for other in others]

    async def failed_thrice() -> bool:
        return failing.audit_failures >= failures + 3

    await until(failed_thrice)
    assert all(other.audits > before for other, before in zip(others, audits, strict=True))
    assert [other.audit_failures for other in others] == [0, 0]
    await tables.hand.execute("ALTER TABLE suppliers ENABLE ALWAYS TRIGGER zz_larder_change")
    await all_hit(caches, tables)


@pytest.mark.guarantee("G4")
async def test_more_changes_than_a_page(tables: Tables, redis_url: str) -> None:
    """A table with many changes is audited alone, page by page, and the others do not wait."""
    async with open_caches(
        tables.database_url, redis_url, tables.entities, limits=replace(LIMITS, audit_page_rows=10)
    ) as caches:
        await all_hit(caches, tables)
        await tables.hand.execute("UPDATE suppliers SET terms = 31")
        await tables.hand.execute(
            "INSERT INTO suppliers (id, name, terms) SELECT n::text, 'S', n FROM generate_series(1, 95) n"
        )

        async def repaired() -> bool:
            return (await caches[tables.suppliers].read("acme")).state.version == 2

        await until(repaired)
        stats = caches.stats[tables.suppliers.namespace]

        async def counted() -> bool:
            return stats.repairs.checked >= 95

        await until(counted)
        assert stats.audit_failures == 0


@asynccontextmanager
async def locked(tables: Tables) -> AsyncIterator[None]:
    """Hold a table against everybody."""
    async with tables.hand.transaction():
        await tables.hand.execute("LOCK TABLE suppliers IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.mark.guarantee("G4")
async def test_one_table_that_is_locked(caches: Caches, tables: Tables) -> None:
    """While somebody holds one table, the fences of the others live on: their reads stay hits."""
    await all_hit(caches, tables)
    async with locked(tables):
        ends = asyncio.get_running_loop().time() + 2 * LIMITS.fence_ttl_ms / 1000
        reads = []
        while asyncio.get_running_loop().time() < ends:
            reads += [await caches[tables.products].read("mug"), await caches[tables.counters].read(7)]
            await asyncio.sleep(0.005)
        assert {read.status for read in reads} == {Status.HIT}
    await all_hit(caches, tables)


async def test_more_rows_than_are_read_back(caches: Caches, tables: Tables) -> None:
    """A write that changes thousands of rows settles, since not all of them are published."""
    await all_hit(caches, tables)

    async def change(db: Session) -> None:
        await db.rows("INSERT INTO counters (number, total) SELECT n, 0 FROM generate_series(100, 2100) n")

    settles = caches.stats[tables.counters.namespace].settles
    try:
        states = await caches[tables.counters].write([100], change)
    except NotSettled:
        pytest.fail("the audit did not finish in time")
    assert states[100].version == 1
    assert caches.stats[tables.counters.namespace].settles == settles + 1

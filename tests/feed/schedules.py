"""Schedules against the guards of the feed. Each raises ``AssertionError`` if a guard is gone."""

import psycopg

from app.feed.events import EventType
from app.feed.windows import Windows
from tests.contracts.entities import SUBJECTS, SUPPLIERS
from tests.feed.rig import Base, Hand

SELL = "UPDATE products SET stock = stock - 1 WHERE id = %s"
BURN = "SELECT pg_current_xact_id()"


async def make(base: Base, *ids: str) -> None:
    """Create products."""
    for product_id in ids:
        await base.run("INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'Mug', 1, 9)", product_id)


async def movements(windows: Windows, since: int, upto: int, product_id: str) -> list[int]:
    """The versions of a product's movements in a window."""
    events = await windows.read(since, upto, limit=10_000)
    return [event.position.version for event in events if event.type is EventType.MOVEMENT and event.position.id == product_id]


async def versions_in_order(base: Base, windows: Windows) -> None:
    """T1 takes its id, T0 takes the next and stays open, T2 commits version 2, T1 version 3: both are told, in this order."""
    await make(base, "a", "b", "c")
    await base.audit()
    async with _another(base) as one, _another(base) as zero:
        async with zero.transaction(force_rollback=True):
            async with one.transaction():
                await one.execute(SELL, ("b",))
                await zero.execute(SELL, ("c",))
                await base.hand.execute(SELL, ("a",))
                await base.audit()
                await one.execute(SELL, ("a",))
            await base.audit()
        await base.audit()
    last = (await base.audit()).number
    assert last is not None
    seen = [version for number in range(1, last) for version in await movements(windows, number, number + 1, "a")]
    assert seen == [2, 3]


async def nothing_before_its_audit(base: Base) -> None:
    """While slots are trusted, nobody is told of a change before an audit has completed that began after it."""
    await make(base, "a")
    assert (await base.audit()).number == 1
    async with base.auditing() as audit:
        await base.run("UPDATE products SET price_cents = 2 WHERE id = 'a'")
        assert not await base.windows.mark()
        await audit.complete()
    assert (await base.windows.newest()).number == 1
    assert (await base.audit()).number == 2


async def oldest_of_two_tables(base: Base) -> None:
    """A change is told when every table that is trusted has been audited after it."""
    await base.run(SUBJECTS["suppliers"].create)
    await make(base, "a")
    await base.audit(SUPPLIERS, "suppliers.feed")
    assert (await base.audit()).number == 1
    await base.run("UPDATE products SET price_cents = 2 WHERE id = 'a'")
    assert (await base.audit()).number == 1
    assert (await base.audit(SUPPLIERS, "suppliers.feed")).number == 2


async def marks_never_go_back(base: Base) -> None:
    """An audit is announced after the fences had lapsed and marks went on without it: its old snapshot is no mark."""
    await make(base, "a")
    await base.audit()
    await base.lapse()
    await base.run("UPDATE products SET price_cents = 2 WHERE id = 'a'")
    assert await base.windows.mark()
    async with base.auditing():
        await base.windows.mark()
        assert (await base.windows.newest()).number == 2


async def restored_ids_are_no_news(base: Base) -> None:
    """After a restore a movement has the id of a transaction that is yet to come. When that comes, the movement is not told."""
    await make(base, "a")
    await base.audit()
    [[now]] = await base.run("SELECT pg_current_xact_id()::text::bigint")
    await base.run(
        "INSERT INTO stock_movements (product_id, version, line, delta, stock_after, reason, xid)"
        " VALUES ('old', 1, 0, 5, 5, 'opening', %s::text::xid8)",
        str(now + 40),
    )
    await base.run("UPDATE cache_generations SET generation = gen_random_uuid()")  # another history
    await base.audit()
    first = (await base.audit()).number
    assert first is not None
    for _ in range(60):
        await base.run(BURN)
    await base.run(SELL, "a")
    last = (await base.audit()).number
    assert last is not None
    assert await movements(base.windows, first, last, "a") == [2]
    assert await movements(base.windows, first, last, "old") == []


async def a_reservation_alone(base: Base) -> None:
    """A reservation is extended, which changes no product and no stock."""
    await base.run("INSERT INTO reservations (id, expires_at, created_at, updated_at) VALUES ('r', now(), now(), now())")
    assert (await base.audit()).number == 1
    await base.run("UPDATE reservations SET expires_at = expires_at + interval '1 hour', version = version + 1")
    assert (await base.audit()).number == 2


def _another(base: Base) -> "_Opened":
    return _Opened(base.url)


class _Opened:
    """A connection of somebody else."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Hand:
        self._hand = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        return self._hand

    async def __aexit__(self, *_: object) -> None:
        await self._hand.close()

"""When a mark is made, and what lies between two marks, on a real PostgreSQL."""

import psycopg
import pytest

from app.cache.ports import FenceLimits
from app.cache.postgres.shared_audit import open_shared_audit
from app.feed.errors import CursorOfAnotherHistory, CursorTooOld
from app.feed.events import Event, EventType
from app.feed.queries import WINDOW
from app.feed.windows import ALL_TYPES, START
from app.products.source import PRODUCTS
from tests.contracts.entities import SUBJECTS, SUPPLIERS
from tests.feed import schedules
from tests.feed.rig import LIMITS, NAMESPACE, Base
from tests.feed.schedules import BURN, SELL, make
from tests.limits import open_database
from tests.products.plans import explain, nodes, scans


async def test_an_audit_makes_a_mark_if_something_changed(base: Base) -> None:
    """The first audit of a history begins the feed. Later ones make a mark if something changed, else they write nothing."""
    assert (await base.windows.newest()).number is None
    assert [(await base.audit()).number for _ in range(3)] == [1, 1, 1]
    await make(base, "mug")
    assert (await base.windows.newest()).number == 1
    assert [(await base.audit()).number for _ in range(2)] == [2, 2]
    await base.run("UPDATE products SET name = 'Cup' WHERE id = 'mug'")
    assert (await base.audit()).number == 3
    assert await base.told(1, 2) == [("movement", "mug", 1)]  # the product has changed again, which the next window tells
    assert await base.told(2, 3) == [("product", "mug", 2)]
    assert await base.told(1, 3) == [("movement", "mug", 1), ("product", "mug", 2)]


async def pages(base: Base, types: frozenset[EventType], size: int) -> list[Event]:
    """The events of the first window by their keys, a few at a time."""
    events: list[Event] = []
    after = START
    while keys := await base.windows.keys(1, 2, limit=size, types=types, after=after):
        events += await base.windows.events(1, 2, keys)
        after = keys[-1]
    return events


async def test_events_are_in_order_and_pages_meet(base: Base) -> None:
    """By product, version and line; page by page and type by type they are the same events."""
    await base.audit()
    await make(base, "b", "a")
    await base.run(SELL, "a")
    await base.run("DELETE FROM products WHERE id = 'b'")
    await base.audit()
    whole = await base.windows.read(1, 2, limit=100)
    assert [event.position for event in whole] == sorted(event.position for event in whole)
    assert [event.body.endswith(b'"product":null}') for event in whole if event.type is EventType.PRODUCT] == [False, True]
    assert await pages(base, ALL_TYPES, 1) == whole
    apart = [await pages(base, frozenset({kind}), 2) for kind in EventType]
    assert sorted((event for events in apart for event in events), key=lambda event: event.position) == whole
    assert [len(events) for events in apart] == [2, 4, 0]


@pytest.mark.guarantee("R11")
async def test_versions_are_told_in_order(base: Base) -> None:
    """Whole snapshots are prefixes of the order of commits, whatever the order of transaction ids."""
    await schedules.versions_in_order(base, base.windows)


@pytest.mark.guarantee("R11")
async def test_nothing_is_told_before_its_audit(base: Base) -> None:
    """Neither by a mark that a follower makes nor by an audit whose snapshot is older than the change."""
    await schedules.nothing_before_its_audit(base)


@pytest.mark.guarantee("R11")
async def test_a_mark_waits_for_every_table(base: Base) -> None:
    """The oldest of the snapshots counts."""
    await schedules.oldest_of_two_tables(base)


@pytest.mark.guarantee("R11")
async def test_marks_never_go_back(base: Base) -> None:
    """A mark that contained less than the one before would tell what was told already."""
    await schedules.marks_never_go_back(base)


@pytest.mark.guarantee("R11")
async def test_restored_ids_are_no_news(base: Base) -> None:
    """The first audits of a history clear the ids that no transaction of it has had."""
    await schedules.restored_ids_are_no_news(base)


async def test_a_change_of_a_reservation_alone_is_news(base: Base) -> None:
    """It makes a mark, so that followers are told."""
    await schedules.a_reservation_alone(base)


async def test_a_late_completion_changes_nothing(base: Base) -> None:
    """An older cycle that completes after a newer one does not take the newer one's snapshot away."""
    await make(base, "a")
    async with base.auditing() as late:
        await base.run(SELL, "a")
        assert (await base.audit()).number == 1
        await base.run(SELL, "a")
        await late.complete()
    assert (await base.windows.newest()).number == 1
    assert (await base.audit()).number == 2
    assert await base.told(1, 2) == [("product", "a", 3), ("movement", "a", 3)]


async def test_tables_audited_together(base: Base) -> None:
    """Cycles that share a session make marks as those that do not."""
    await base.run(SUBJECTS["suppliers"].create)
    await make(base, "a")
    entities = {NAMESPACE: PRODUCTS, "suppliers.feed": SUPPLIERS}
    database = open_database(base.url, connections=5)
    async with open_shared_audit(database, entities) as shared:
        announced = await shared.announce([(name, "server", LIMITS) for name in entities])
        await shared.snapshot([(name, None, LIMITS, 10) for name in entities])
        done = [(name, one.cycle, one.epoch) for name, one in zip(entities, announced, strict=True)]  # type: ignore[union-attr]
        await shared.complete(done)
    await database.close()
    assert (await base.windows.newest()).number == 1


async def test_without_redis_marks_go_on(base: Base) -> None:
    """When no fence can be alive, a follower makes the marks itself; nothing changed, no mark."""
    await make(base, "a")
    await base.audit()
    await base.run(SELL, "a")
    assert (await base.windows.newest()).unfenced is False
    await base.lapse()
    assert (await base.windows.newest()).unfenced is True
    assert [await base.windows.mark() for _ in range(2)] == [True, False]
    assert await base.told(1, 2) == [("product", "a", 2), ("movement", "a", 2)]


async def test_a_namespace_that_lapsed_does_not_count(base: Base) -> None:
    """A table that is not audited any more does not hold up the feed for ever."""
    await base.run(SUBJECTS["suppliers"].create)
    await base.audit(SUPPLIERS, "suppliers.feed", FenceLimits(1, 1, 50))
    await base.run("UPDATE cache_audits SET fenced_until = fenced_until - interval '1 hour' WHERE relation = 'suppliers'")
    await base.audit()
    await make(base, "a")
    assert (await base.audit()).number == 2


async def test_an_open_transaction_is_told_when_it_ends(base: Base) -> None:
    """What was under way at a mark is told by the first mark that contains it, although others have been told since."""
    await make(base, "a", "b")
    await base.audit()
    async with await psycopg.AsyncConnection.connect(base.url) as other:
        await other.execute(SELL, ("a",))
        await base.run(SELL, "b")
        assert (await base.audit()).number == 2
        await other.commit()
    await base.run(BURN)
    assert (await base.audit()).number == 3
    assert await base.told(1, 2) == [("product", "b", 2), ("movement", "b", 2)]
    assert await base.told(2, 3) == [("product", "a", 2), ("movement", "a", 2)]


async def test_another_history(base: Base) -> None:
    """After TRUNCATE there is no mark until an audit of the new history; the numbers go on, and old windows are gone."""
    await make(base, "a")
    await base.audit()
    await base.run(SELL, "a")
    await base.audit()
    await base.run("TRUNCATE products")
    assert (await base.windows.newest()).number is None
    assert (await base.audit()).number == 3
    with pytest.raises(CursorOfAnotherHistory):
        await base.windows.read(1, 2, limit=10)
    with pytest.raises(CursorTooOld):
        await base.windows.read(2, 3, limit=10)


async def test_old_marks_are_removed(base: Base) -> None:
    """In steps, by age, and never the newest; a cursor at a removed one is too old."""
    for _ in range(4):
        await make(base, f"p{_}")
        await base.audit()
    await base.run("UPDATE feed_marks SET taken_at = taken_at - interval '1 day' WHERE number <> 3")
    assert await base.windows.forget(age_s=3_600, limit=1) == 1
    assert await base.windows.forget(age_s=3_600, limit=10) == 1
    assert await base.run("SELECT number FROM feed_marks ORDER BY 1") == [(3,), (4,)]
    with pytest.raises(CursorTooOld):
        await base.windows.read(2, 4, limit=10)


async def test_only_a_false_id_is_ever_changed(base: Base) -> None:
    """Nobody hides a movement from the feed, or changes anything else of it."""
    await make(base, "a")
    for statement in (
        "UPDATE stock_movements SET xid = '0'",
        "UPDATE stock_movements SET xid = '0', delta = 1",
        "DELETE FROM stock_movements",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await base.run(statement)


async def test_a_mark_asks_for_each_epoch_once(base: Base) -> None:
    """A mark asks once for each table, however many partitions its caches have."""
    await base.audit()
    await base.run(
        "INSERT INTO cache_audits (relation, namespace) SELECT 'products', 'products/64#' || n FROM generate_series(0, 63) AS n"
    )
    async with await psycopg.AsyncConnection.connect(base.url) as session:
        await session.execute("SET LOCAL track_functions = 'all'")
        await session.execute("SELECT larder_feed_mark('10 s')")
        asked = await session.execute("SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'larder_try_epoch'")
        assert await asked.fetchone() == (1 + 1,)  # for the mark itself, and for the one table


async def test_a_window_is_found_by_index(base: Base) -> None:
    """Whatever the tables hold: by transaction ids, and then by key."""
    async with base.database.lists.session() as session:
        parameters = {
            "knows": 9,
            "since": 1,
            "upto": 2,
            "products": True,
            "movements": True,
            "reservations": True,
            "id": "",
            "version": 0,
            "line": -1,
        }
        plan = await explain(session, WINDOW.as_string(), {**parameters, "limit": 10})
    assert scans(plan) == []
    assert {node["Index Name"] for node in nodes(plan) if "Index Name" in node} >= {
        *("ix_products_changed_xid", "ix_stock_movements_xid", "ix_reservations_changed_xid"),
        *("pk_products", "pk_stock_movements", "pk_reservations", "pk_reservation_lines"),
    }

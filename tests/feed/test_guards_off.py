"""Each guard of the feed is switched off once, and its schedule notices."""

from collections.abc import Awaitable, Callable

import pytest

from app.feed import queries
from app.feed.windows import Windows
from tests.feed import schedules
from tests.feed.rig import Base

SNAPSHOT_OF_NOW = "proven := pg_current_snapshot();\n    IF present IS NULL"
"""Put in the place of ``IF present IS NULL``, it takes the present snapshot for that of an audit."""

MUTANTS: dict[str, tuple[str, str, str, Callable[[Base], Awaitable[None]]]] = {
    "mark from a poll": (
        "larder_feed_mark",
        "IF present IS NULL",
        SNAPSHOT_OF_NOW,
        schedules.nothing_before_its_audit,
    ),
    "one table's audit is enough": (
        "larder_feed_mark",
        "cardinality(ARRAY(SELECT pg_snapshot_xip(snapshot))) DESC LIMIT 1",
        "cardinality(ARRAY(SELECT pg_snapshot_xip(snapshot))) DESC OFFSET 1 LIMIT 1",
        schedules.oldest_of_two_tables,
    ),
    "mark not beyond the last": (
        "larder_feed_mark",
        "ELSIF NOT larder_feed_changed(last.snapshot, proven) THEN",
        "ELSIF pg_snapshot_xmax(proven) = pg_snapshot_xmax(last.snapshot) THEN",
        schedules.marks_never_go_back,
    ),
    "restored ids kept": (
        "larder_feed_mark",
        "AND NOT pg_visible_in_snapshot(xid, pg_current_snapshot())",
        "AND false",
        schedules.restored_ids_are_no_news,
    ),
    "marks without reservations": (
        "larder_feed_changed",
        "SELECT FROM reservations\n            WHERE changed_xid >= first",
        "SELECT FROM reservations\n            WHERE false AND changed_xid >= first",
        schedules.a_reservation_alone,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_guard_of_marks_is_noticed_when_it_is_gone(base: Base, name: str) -> None:
    """The function without the guard fails the schedule that the whole one passes."""
    function, guard, without, schedule = MUTANTS[name]
    [[text]] = await base.run("SELECT pg_get_functiondef(%s::regproc)", function)
    assert text.count(guard) == 1
    await base.hand.execute(text.replace(guard, without))
    with pytest.raises(AssertionError):
        await schedule(base)


class _ByXmin(Windows):
    """Takes what every transaction before the oldest open one has changed, as most feeds do."""

    statement = queries.window(
        queries.WINDOW_TEXT.replace("pg_snapshot_xmax(s.snapshot)", "pg_snapshot_xmin(s.snapshot)")
        .replace("pg_snapshot_xmax(u.snapshot)", "pg_snapshot_xmin(u.snapshot)")
        .replace("WHERE pg_visible_in_snapshot(x, u.snapshot)", "WHERE false")
        .replace("pg_visible_in_snapshot(c.xid, bounds.snapshot)", "true")
    )


async def test_a_window_by_xmin_is_noticed(base: Base) -> None:
    """It loses nothing, and tells version 3 before version 2."""
    with pytest.raises(AssertionError):
        await schedules.versions_in_order(base, _ByXmin(base.database, 50, lambda _epoch, _at: None))

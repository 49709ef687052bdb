"""The feed of one process over windows in memory: what followers share, and what happens to those that cannot keep up."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from app.cache.errors import Overloaded, SourceUnavailable
from app.cache.stats import Stats
from app.feed import backlog as backlog_module
from app.feed import feed as feed_module
from app.feed.backlog import READERS
from app.feed.errors import CursorOfAnotherHistory, CursorTooOld
from app.feed.events import PRODUCT_LINE, Cursor, Event, EventType, Page, Position
from app.feed.feed import MOST_FOLLOWERS, WINDOW_EVENTS, Feed
from app.feed.state import FeedState
from app.feed.windows import ALL_TYPES
from tests.fakes.windows import EPOCH, MemoryWindows


class Clock:
    """The process's clock, which only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def windows() -> MemoryWindows:
    return MemoryWindows(time.monotonic)


@pytest.fixture
def stats() -> Stats:
    return Stats()


@pytest.fixture
async def feed(windows: MemoryWindows, stats: Stats, clock: Clock) -> AsyncIterator[Feed]:
    feed = Feed(windows, stats, clock=clock)
    yield feed
    await feed.aclose()


def product(product_id: str, version: int = 1) -> Event:
    """A product's event."""
    return Event(EventType.PRODUCT, Position(product_id, version, PRODUCT_LINE), f'"{product_id}"'.encode())


def movement(product_id: str, version: int = 1, line: int = 0) -> Event:
    """A movement's event."""
    return Event(EventType.MOVEMENT, Position(product_id, version, line), f'"{product_id}.{line}"'.encode())


def at(number: int) -> Cursor:
    """A cursor at a mark."""
    return Cursor(EPOCH, number)


async def now(feed: Feed, after: Cursor, limit: int = 100, types: frozenset[EventType] = ALL_TYPES) -> Page:
    """The events that are there."""
    return await feed.read(after, types=types, limit=limit, wait_s=0)


async def seen(feed: Feed, clock: Clock) -> None:
    """Let the feed read the newest mark again."""
    clock.now += 1
    await feed.start()


async def done(waiting: "asyncio.Task[Page]", clock: Clock) -> Page:
    """Let time pass until the wait is over."""
    async with asyncio.timeout(10):
        while not waiting.done():
            clock.now += 1
            await asyncio.sleep(0.001)
    return waiting.result()


async def walk(feed: Feed, after: Cursor, limit: int, types: frozenset[EventType] = ALL_TYPES) -> list[Event]:
    """All events after a cursor, page by page."""
    found: list[Event] = []
    while True:
        page = await now(feed, after, limit, types)
        found += page.events
        assert len(page.events) <= limit
        if not page.more:
            return found
        assert page.next != after
        after = page.next


@pytest.mark.parametrize("kept", [True, False], ids=["ring", "database"])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_meet(feed: Feed, windows: MemoryWindows, clock: Clock, limit: int, *, kept: bool) -> None:
    """Pages of any size give every event once and in order, from the ring as from the database."""
    if kept:
        await feed.start()
    events = [[product("a"), movement("a"), movement("a", line=1)], [], [movement("b")], [product("b", 2), product("c")]]
    for window in events:
        windows.add(*window)
        if kept:
            await seen(feed, clock)
    searches = windows.calls["read"] + windows.calls["keys"]
    expected = sorted((event for window in events for event in window), key=lambda event: event.position)
    assert await walk(feed, at(1), limit) == expected
    only = frozenset({EventType.MOVEMENT})
    assert await walk(feed, at(1), limit, only) == [event for event in expected if event.type is EventType.MOVEMENT]
    assert (windows.calls["read"] + windows.calls["keys"] == searches) == kept


async def test_waiting_followers_share_one_reading(feed: Feed, windows: MemoryWindows, clock: Clock) -> None:
    """However many wait: one reading of the window, one page, and the bytes made of it."""
    cursor = await feed.start()
    waiting = [asyncio.create_task(feed.read(cursor, types=ALL_TYPES, limit=10, wait_s=30)) for _ in range(200)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert feed.state.followers == 200
    before = windows.calls.copy()
    windows.add(product("a"))
    await seen(feed, clock)
    pages = await asyncio.gather(*waiting)
    assert [event.body for event in pages[0].events] == [b'"a"']
    assert {id(page) for page in pages} == {id(pages[0])}
    assert windows.calls["read"] - before["read"] == 1
    assert windows.calls["newest"] - before["newest"] == 1
    assert feed.state.followers == 0


async def test_marks_are_read_only_while_there_are_followers(
    feed: Feed, windows: MemoryWindows, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without followers there is no poller, and it ends when the last one leaves."""
    monkeypatch.setattr(feed_module, "POLL_S", 0.001)
    cursor = await feed.start()
    waiting = asyncio.create_task(feed.read(cursor, types=ALL_TYPES, limit=10, wait_s=30))
    calls = windows.calls["newest"]
    async with asyncio.timeout(10):
        while windows.calls["newest"] < calls + 3:
            clock.now += 1
            await asyncio.sleep(0.001)
    windows.add(product("a"))
    await done(waiting, clock)
    async with asyncio.timeout(10):
        while "feed" in {task.get_name() for task in asyncio.all_tasks()}:
            await asyncio.sleep(0.001)


async def test_a_wait_that_ends_empty_moves_the_cursor(feed: Feed, windows: MemoryWindows, clock: Clock) -> None:
    """Else the cursor of somebody who follows a rare type would grow too old."""
    cursor = await feed.start()
    windows.add(movement("a"))
    await seen(feed, clock)
    page = await now(feed, cursor, types=frozenset({EventType.PRODUCT}))
    assert (list(page.events), page.next, page.more) == ([], at(2), False)


async def test_cursors_that_cannot_go_on(feed: Feed, windows: MemoryWindows) -> None:
    """A removed mark is too old; another epoch, or a mark that is not there yet, is another history."""
    windows.add(product("a"))
    windows.add(product("b"))
    windows.first = 2
    with pytest.raises(CursorTooOld):
        await now(feed, at(1))
    for cursor in (Cursor("7.2.other", 1), at(4), Cursor(EPOCH, 2, 9, Position("a", 1, 0), ALL_TYPES)):
        with pytest.raises(CursorOfAnotherHistory):
            await now(feed, cursor)


async def test_a_large_window_is_not_kept(feed: Feed, windows: MemoryWindows, clock: Clock) -> None:
    """It is searched once, each page looks its own events up, and the feed goes on behind it."""
    cursor = await feed.start()
    windows.add(*(product(f"p{number:05}") for number in range(WINDOW_EVENTS + 1)))
    await seen(feed, clock)
    assert len(await walk(feed, cursor, 1_000)) == WINDOW_EVENTS + 1
    assert (windows.calls["keys"], windows.calls["events"], windows.calls["looked up"]) == (1, 6, WINDOW_EVENTS + 1)
    reads = windows.calls["read"]
    windows.add(product("a"))
    await seen(feed, clock)
    assert [event.position.id for event in (await now(feed, at(2))).events] == ["a"]
    assert windows.calls["read"] == reads + 1


async def test_who_is_far_behind_goes_on_in_steps(feed: Feed, windows: MemoryWindows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step ends at a mark, its keys are read once, and each event is looked up once, whatever the size of pages."""
    monkeypatch.setattr(backlog_module, "STEP_KEYS", 20)
    events = [[movement(f"p{number:02}", line=line) for line in range(3)] for number in range(20)]
    for window in events:
        windows.add(*window)
    assert await walk(feed, at(1), 4) == [event for window in events for event in window]
    assert windows.calls["looked up"] == 60
    assert (windows.calls["keys"], windows.calls["read"]) == (7, 0)  # ten events, so three windows, at a time


@pytest.mark.parametrize("limit", [1, 3, 8, 100])
async def test_a_window_of_more_keys_than_are_kept(
    feed: Feed, windows: MemoryWindows, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """It is searched again when those have been told; pages meet where the keys do."""
    monkeypatch.setattr(backlog_module, "STEP_KEYS", 8)
    events = [product(f"p{number:02}") for number in range(30)]
    windows.add(*events)
    assert await walk(feed, at(1), limit) == events
    assert (windows.calls["keys"], windows.calls["looked up"]) == (4, 30)


async def test_followers_behind_at_one_place_share_its_keys(feed: Feed, windows: MemoryWindows) -> None:
    """Each has pages of another size."""
    windows.add(*(product(f"p{number:02}") for number in range(30)))
    pages = await asyncio.gather(*(now(feed, at(1), limit) for limit in (7, 8, 9, 10)))
    assert [len(page.events) for page in pages] == [7, 8, 9, 10]
    assert windows.calls["keys"] <= READERS


async def test_a_product_that_changed_since_is_told_later(
    feed: Feed, windows: MemoryWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its older state is left out of the page, and the follower goes on behind it."""
    monkeypatch.setattr(backlog_module, "STEP_KEYS", 2)
    windows.add(product("a"), product("b"), product("c"))
    windows.gone = [product("a"), product("b")]
    first = await now(feed, at(1), 2)
    assert (list(first.events), first.more) == ([], True)
    assert await walk(feed, first.next, 2) == [product("c")]


async def test_the_ring_is_bounded(feed: Feed, windows: MemoryWindows, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest windows leave it, and who is there reads from the database."""
    monkeypatch.setattr(feed_module, "RING_BYTES", 10)
    await feed.start()
    for name in "abcdef":
        windows.add(product(name))
        await seen(feed, clock)
    reads = windows.calls["read"]
    assert len((await now(feed, at(5))).events) == 2
    assert windows.calls["read"] == reads
    assert len((await now(feed, at(3))).events) == 4
    assert (windows.calls["read"], windows.calls["keys"]) == (reads, 1)


async def test_too_many_followers(feed: Feed) -> None:
    """The next one is refused, and a place that becomes free is given again."""
    cursor = await feed.start()
    places = [feed.following(cursor) for _ in range(MOST_FOLLOWERS)]
    for place in places:
        place.__enter__()
    with pytest.raises(Overloaded):
        await now(feed, cursor)
    places.pop().__exit__(None, None, None)
    await now(feed, cursor)


async def test_an_outage_is_survived(
    feed: Feed, windows: MemoryWindows, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits goes on to wait; who comes is told; the log says it once."""
    monkeypatch.setattr(feed_module, "POLL_S", 0.001)
    cursor = await feed.start()
    waiting = asyncio.create_task(feed.read(cursor, types=ALL_TYPES, limit=10, wait_s=1_000))
    await asyncio.sleep(0)
    windows.fault = SourceUnavailable("away")
    async with asyncio.timeout(10):
        calls = windows.calls["newest"]
        while windows.calls["newest"] < calls + 3:
            clock.now += 1
            await asyncio.sleep(0.001)
    clock.now += 1
    with pytest.raises(SourceUnavailable):
        await now(feed, cursor)
    assert feed.failing
    windows.fault = None
    windows.add(product("a"))
    assert len((await done(waiting, clock)).events) == 1
    assert [record.levelname for record in caplog.records if record.name == "app.feed.feed"] == ["WARNING"]


async def test_unexpected_errors_are_counted(
    feed: Feed,
    windows: MemoryWindows,
    stats: Stats,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of them; an outage of the database is none."""
    monkeypatch.setattr(feed_module, "POLL_S", 0.001)
    cursor = await feed.start()
    with feed.following(cursor):
        for fault, counted in ((SourceUnavailable("away"), 0), (KeyError("a defect"), 3)):
            windows.fault, calls = fault, windows.calls["newest"]
            async with asyncio.timeout(10):
                while windows.calls["newest"] < calls + 3:
                    clock.now += 1
                    await asyncio.sleep(0.001)
            assert stats.unexpected >= counted
            assert counted or not stats.unexpected
            windows.fault = None
            async with asyncio.timeout(10):
                while feed.failing:
                    clock.now += 1
                    await asyncio.sleep(0.001)


async def test_a_stop_ends_every_wait(feed: Feed) -> None:
    """With an empty page, from whose cursor the follower goes on elsewhere."""
    cursor = await feed.start()
    waiting = asyncio.create_task(feed.read(cursor, types=ALL_TYPES, limit=10, wait_s=30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    feed.end()
    page = await asyncio.wait_for(waiting, 10)
    assert (list(page.events), page.next) == ([], cursor)


async def test_lag_is_that_of_the_slowest(feed: Feed, windows: MemoryWindows, clock: Clock) -> None:
    """For how long it has not fetched what was there; 0 for those that wait at the end."""
    cursor = await feed.start()
    with feed.following(cursor) as place:
        assert feed.state.lag_s == 0
        windows.add(product("a"))
        await seen(feed, clock)
        clock.now += 7
        assert feed.state.lag_s == 7
        place.move(at(2))
        assert feed.state.lag_s == 0
        assert feed.state.mark_age_s == 7
    assert feed.state == FeedState()

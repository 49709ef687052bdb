"""What followers cost PostgreSQL: ten statements a second and one for each window, however many they are; none without any."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from app.cache.stats import Stats
from app.feed.feed import POLL_S, Feed
from app.feed.windows import ALL_TYPES, START
from tests.fakes.windows import MemoryWindows
from tests.feed.rig import Base
from tests.feed.schedules import SELL, make
from tests.feed.test_feed import product
from tests.simulation.loop import SeededLoop

SECONDS = 20.0
WINDOWS = 8

Follow = Callable[[Feed, random.Random], Awaitable[None]]


async def poll(feed: Feed, _chance: random.Random) -> None:
    """Follow by long polls."""
    after, loop = await feed.start(), asyncio.get_running_loop()
    while (left := SECONDS - loop.time()) > 0:
        after = (await feed.read(after, types=ALL_TYPES, limit=100, wait_s=min(30.0, left))).next


async def ask(feed: Feed, chance: random.Random) -> None:
    """Follow without waiting: a request at any moment."""
    after, loop = await feed.start(), asyncio.get_running_loop()
    while loop.time() < SECONDS:
        after = (await feed.read(after, types=ALL_TYPES, limit=100, wait_s=0)).next
        await asyncio.sleep(chance.random())


async def stream(feed: Feed, _chance: random.Random) -> None:
    """Follow as a stream does."""
    loop = asyncio.get_running_loop()
    with feed.following(await feed.start()) as place:
        while (left := SECONDS - loop.time()) > 0:
            page = await feed.next_page(place.cursor, ALL_TYPES, 1_000)
            place.move(page.next)
            if not page.events:
                await feed.wait(place.cursor, min(15.0, left))


async def watched(followers: int, follow: Follow, chance: random.Random) -> tuple[Counter[str], Counter[str]]:
    """What a process reads while it has followers, and in as many seconds after them."""
    loop = asyncio.get_running_loop()
    windows = MemoryWindows(loop.time)
    feed = Feed(windows, Stats(), clock=loop.time)
    following = [asyncio.ensure_future(follow(feed, chance)) for _ in range(followers)]
    for number in range(WINDOWS):
        await asyncio.sleep(SECONDS / (WINDOWS + 1))
        windows.add(product(f"p{number}"))
    await asyncio.gather(*following)
    during = windows.calls.copy()
    await asyncio.sleep(SECONDS)
    await feed.aclose()
    return during, windows.calls - during


@pytest.mark.parametrize("follow", [poll, ask, stream])
@pytest.mark.parametrize("followers", [1, 300])
def test_followers_share_ten_statements_a_second(follow: Follow, followers: int) -> None:
    """In virtual time: the mark is read every tenth of a second, each window once, and nothing when they are gone."""
    chance = random.Random(14)
    loop = SeededLoop(chance)
    during, after = loop.run_until_complete(loop.create_task(watched(followers, follow, chance)))
    loop.close()
    assert during.keys() <= {"newest", "read"}
    assert during["newest"] <= SECONDS / POLL_S + 1
    assert during["read"] <= WINDOWS
    if follow is not ask:  # which may come too seldom to see each window apart
        assert during["newest"] >= 0.9 * SECONDS / POLL_S
        assert during["read"] == WINDOWS
    assert after["newest"] <= 1
    assert set(after) <= {"newest"}


def test_nobody_follows() -> None:
    """Nothing is read."""
    chance = random.Random(14)
    loop = SeededLoop(chance)
    during, after = loop.run_until_complete(loop.create_task(watched(0, poll, chance)))
    loop.close()
    assert (during, after) == (Counter(), Counter())


async def test_each_reading_is_one_statement(base: Base) -> None:
    """The mark, a window, the keys of a step, and a page of it; how far a step goes is one more."""
    await base.audit()
    await make(base, "a", "b")
    await base.audit()
    await base.run(SELL, "a")
    await base.audit()
    windows = base.windows
    keys = await windows.keys(1, 3, limit=10, types=ALL_TYPES, after=START)
    readings: list[Callable[[], Awaitable[object]]] = [
        windows.newest,
        lambda: windows.read(1, 3, limit=10),
        lambda: windows.step(1, 3, limit=10, types=ALL_TYPES),
        lambda: windows.keys(1, 3, limit=10, types=ALL_TYPES, after=keys[0]),
        lambda: windows.events(1, 3, keys),
    ]
    for reading in readings:
        before = base.database.statements
        await reading()
        assert base.database.statements - before == 1

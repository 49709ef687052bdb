"""The feed of one process: many followers share one reading of the database.

While there are followers, the newest mark is read ten times a second. When it has moved, the window up to it is read once
and kept in a ring of bounded size. Followers at the same place share one page. A follower whose place is behind the ring
gets its pages from the backlog, which reads the database.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from app.cache.errors import CacheError, Overloaded
from app.cache.stats import Stats
from app.feed.backlog import Backlog
from app.feed.errors import CursorOfAnotherHistory, FeedStarting, MustResync
from app.feed.events import Cursor, Event, EventType, Page
from app.feed.state import FeedState
from app.feed.windows import Newest, Windows

POLL_S = 0.1
"""Pause between two readings of the newest mark."""
MARK_S = 0.5
"""Pause between two marks that are made without audits, while no slot can be trusted."""
RING_BYTES = 8 * 1024 * 1024
WINDOW_EVENTS = 5_000
"""Most events of a window that is kept in the ring. A larger one is left to the backlog."""
MOST_FOLLOWERS = 1_000
_PAGES = 32
"""Most pages that are remembered for others at the same place, until the next window comes."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Window:
    since: int
    upto: int
    events: Sequence[Event]
    size: int
    read_at: float


class Feed:
    """The changes as followers see them.

    Args:
        windows: where marks and windows are read.
        stats: counts unexpected errors.
        clock: the process's clock.
    """

    def __init__(self, windows: Windows, stats: Stats, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._windows = windows
        self._stats = stats
        self._clock = clock
        self._ring: deque[_Window] = deque()
        self._ring_bytes = 0
        self._pages: dict[tuple[Cursor, frozenset[EventType], int], Page] = {}
        self._newest: Newest | None = None
        self._read_at = float("-inf")
        self._marked_at = float("-inf")
        self._reading = asyncio.Lock()
        self._backlog = Backlog(windows)
        self._moved = asyncio.Event()
        self._places: Counter[int] = Counter()
        """How many followers are at each mark."""
        self._poller: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self.ending = False
        """Whether the service stops: nobody waits any more."""

    @property
    def state(self) -> FeedState:
        """What the metrics show."""
        newest, now = self._newest, self._clock()
        if not self._places or newest is None or newest.number is None:
            return FeedState(self._places.total())
        lag_s = 0.0
        if (slowest := min(self._places, default=newest.number)) < newest.number:
            missed = [window.read_at for window in self._ring if window.upto > slowest]
            lag_s = now - missed[0] if missed else 0.0
        return FeedState(self._places.total(), newest.age_s + now - self._read_at, lag_s)

    async def read(self, after: Cursor | None, *, types: frozenset[EventType], limit: int, wait_s: float) -> Page:
        """Return the first events after a cursor. If there are none, wait for some, and then return a cursor further on.

        Without a cursor, return the present one.

        Raises:
            FeedStarting, MustResync: as their docstrings say.
            Overloaded: there are too many followers.
            SourceUnavailable: the database could not be read.
        """
        newest = await self._refresh()
        if after is None:
            return Page((), _tip(newest), more=False)
        with self.following(after) as place:
            until = self._clock() + wait_s
            while True:
                page = await self.next_page(place.cursor, types, limit)
                place.move(page.next)
                if page.events or page.more or self.ending or self._clock() >= until:
                    return page
                await self.wait(page.next, until - self._clock())

    @contextmanager
    def following(self, after: Cursor) -> Iterator["Place"]:
        """Count a follower, and read marks for it, within this context. Raises ``Overloaded`` if there are too many."""
        if self._places.total() >= MOST_FOLLOWERS:
            raise Overloaded(f"{MOST_FOLLOWERS} followers wait for changes")
        place = Place(self._places, after)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="feed")
        try:
            yield place
        finally:
            place.leave()

    async def start(self) -> Cursor:
        """Return the present cursor. Raises as ``read``."""
        return _tip(await self._refresh())

    async def next_page(self, after: Cursor, types: frozenset[EventType], limit: int) -> Page:
        """Return the events after a cursor that are there already. Raises as ``read``."""
        newest = self._newest or await self._refresh()
        number = _tip(newest).number
        if after.epoch != newest.epoch or after.number > number or after.upto > number:
            raise CursorOfAnotherHistory
        if after.position is None and after.number == number:
            return Page((), after, more=False)
        key = (after, types, limit)
        if (page := self._pages.get(key)) is None:
            page = self._from_ring(after, types, limit) or await self._backlog.page(after, number, types, limit)
            if len(self._pages) < _PAGES and self._newest is newest:
                self._pages[key] = page
        return page

    async def wait(self, after: Cursor, longest_s: float) -> bool:
        """Wait until there is more than a cursor has seen, for a limited time; return whether there may be."""
        newest = self._newest
        if self.ending or newest is None or (newest.epoch, newest.number) != (after.epoch, after.number):
            return True
        try:
            await asyncio.wait_for(self._moved.wait(), longest_s)
        except TimeoutError:
            return False
        return True

    @property
    def failing(self) -> bool:
        """Whether the marks could not be read the last time."""
        return self._failure is not None

    def end(self) -> None:
        """Let nobody wait any more, because the service stops."""
        self.ending = True
        self._wake()

    async def aclose(self) -> None:
        """Stop reading marks."""
        self.end()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def _poll(self) -> None:
        while self._places and not self.ending:
            try:
                # The pause may end a little early.
                await self._refresh(0.9 * POLL_S)
                self._failure = None
            except Exception as error:
                expected = isinstance(error, CacheError | FeedStarting)
                self._stats.unexpected += not expected
                if self._failure is None:
                    log.log(
                        logging.WARNING if expected else logging.ERROR,
                        "the change feed stands still, this is tried again: %s",
                        error,
                        exc_info=None if expected else error,
                    )
                self._failure = error  # followers go on to wait, and the next reading may succeed
            await asyncio.sleep(POLL_S)

    async def _refresh(self, age_s: float = POLL_S) -> Newest:
        """Return the newest mark, read at most ``age_s`` ago, and keep the window up to it."""
        async with self._reading:
            if self._newest is not None and self._clock() - self._read_at < age_s:
                return self._newest
            newest, before = await self._windows.newest(), self._newest
            if newest.unfenced and self._clock() - self._marked_at >= MARK_S:
                self._marked_at = self._clock()
                if await self._windows.mark():
                    newest = await self._windows.newest()
            self._read_at = self._clock()
            moved = before is None or (newest.epoch, newest.number) != (before.epoch, before.number)
            if moved:
                await self._advance(before, newest)
            self._newest = newest
            if moved:
                self._wake()
            return newest

    async def _advance(self, before: Newest | None, newest: Newest) -> None:
        """Read the window between two marks into the ring. The ring is emptied if the window cannot follow its last one."""
        events = await self._between(before, newest)
        self._pages.clear()
        if events is None or len(events) > WINDOW_EVENTS:
            self._ring.clear()
            self._ring_bytes = 0
            return
        assert before is not None  # noqa: S101 - or there were no events
        size = sum(len(event.body) for event in events)
        self._ring.append(_Window(before.number or 0, newest.number or 0, events, size, self._clock()))
        self._ring_bytes += size
        while self._ring_bytes > RING_BYTES:
            self._ring_bytes -= self._ring.popleft().size

    async def _between(self, before: Newest | None, newest: Newest) -> Sequence[Event] | None:
        """Return the first events between two marks, or ``None`` if there is no window between them."""
        if before is None or before.number is None or newest.number is None or before.epoch != newest.epoch:
            return None
        try:
            return await self._windows.read(before.number, newest.number, limit=WINDOW_EVENTS + 1)
        except MustResync:
            return None

    def _from_ring(self, after: Cursor, types: frozenset[EventType], limit: int) -> Page | None:
        """Return a page of the ring, or ``None`` if it does not reach back to the cursor."""
        start = next((index for index, window in enumerate(self._ring) if window.since == after.number), None)
        if start is None or (after.position is not None and self._ring[start].upto != after.upto):
            return None
        found: list[Event] = []
        place = after
        for window in islice(self._ring, start, None):
            position = place.position
            for event in window.events:
                if event.type not in types or (place.position is not None and event.position <= place.position):
                    continue
                if len(found) == limit:
                    within = Cursor(after.epoch, window.since, window.upto, position, types)
                    return Page(found, place if position is None else within, more=True)
                found.append(event)
                position = event.position
            place = Cursor(after.epoch, window.upto)
        return Page(found, place, more=False)

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


class Place:
    """Where one follower is, for the metrics."""

    def __init__(self, places: Counter[int], cursor: Cursor) -> None:
        self._places = places
        self.cursor = cursor
        places[cursor.number] += 1

    def move(self, cursor: Cursor) -> None:
        """Go on to another cursor."""
        self.leave()
        self.cursor = cursor
        self._places[cursor.number] += 1

    def leave(self) -> None:
        """Be counted no longer."""
        self._places[self.cursor.number] -= 1
        if not self._places[self.cursor.number]:
            del self._places[self.cursor.number]


def _tip(newest: Newest) -> Cursor:
    if newest.number is None:
        raise FeedStarting
    return Cursor(newest.epoch, newest.number)

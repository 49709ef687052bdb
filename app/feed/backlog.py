"""The pages of followers that are further behind than the ring, read from the database.

Such a follower goes on in steps. A step is a window of a moderate number of events: it ends at the last mark up to which there
are no more. Where its events are is read once and kept, and each page then looks up its own events by their keys. So a page
costs the database what the page holds, however far behind the follower is. Only a single window of more keys than are kept,
such as one statement over a whole catalogue, is searched again whenever these have been told.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from app.feed.events import Cursor, EventType, Page, Position
from app.feed.windows import START, Key, Windows

STEP_KEYS = 10_000
"""Most keys that are read at once, which bounds the memory that they take."""
STEPS = 4
"""Most steps whose keys are kept, for as many followers that are behind at different places."""
READERS = 2
"""Most pages that are read from the database at the same time."""


@dataclass(frozen=True, slots=True)
class _Step:
    since: int
    upto: int
    types: frozenset[EventType]
    after: Key
    """Where the keys begin."""
    keys: Sequence[Key]
    whole: bool
    """Whether these are all keys up to the end of the window."""

    def holds(self, place: Key, upto: int) -> bool:
        """Return whether what comes after a place in a window begins in this step. At its beginning, ``upto`` is 0."""
        return self.after <= place and upto in (0, self.upto) and (self.whole or place < self.keys[-1])


class Backlog:
    """Reads pages of windows that the ring does not hold."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._readers = asyncio.Semaphore(READERS)
        self._steps: deque[_Step] = deque(maxlen=STEPS)

    async def page(self, after: Cursor, number: int, types: frozenset[EventType], limit: int) -> Page:
        """Return the first events after a cursor that is not at mark ``number``, the newest.

        A page may have fewer events than there are, even none, because a product that has changed since is told later.

        Raises:
            MustResync, CacheError: as ``Windows.read``.
        """
        place = START if after.position is None else _key(after.position)
        async with self._readers:
            step = self._kept(after, types, place) or await self._read(after, number, types, place)
            begin = bisect_right(step.keys, place)
            keys = step.keys[begin : begin + limit]
            events = await self._windows.events(step.since, step.upto, keys) if keys else []
        if step.whole and begin + len(keys) == len(step.keys):
            return Page(events, Cursor(after.epoch, step.upto), more=step.upto < number)
        return Page(events, Cursor(after.epoch, step.since, step.upto, Position(*keys[-1]), types), more=True)

    def _kept(self, after: Cursor, types: frozenset[EventType], place: Key) -> _Step | None:
        for step in self._steps:
            if (step.since, step.types) == (after.number, types) and step.holds(place, after.upto):
                return step
        return None

    async def _read(self, after: Cursor, number: int, types: frozenset[EventType], place: Key) -> _Step:
        since, upto = after.number, after.upto or number
        if place == START and upto > since + 1:
            upto = await self._windows.step(since, upto, limit=STEP_KEYS // 2, types=types)
        keys = await self._windows.keys(since, upto, limit=STEP_KEYS, types=types, after=place)
        step = _Step(since, upto, types, place, keys, whole=len(keys) < STEP_KEYS)
        self._steps.append(step)
        return step


def _key(position: Position) -> Key:
    return position.id, position.version, position.line

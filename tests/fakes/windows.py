"""The marks and windows of the feed, in memory."""

from collections import Counter
from collections.abc import Callable

from app.feed.errors import CursorOfAnotherHistory, CursorTooOld
from app.feed.events import Event, EventType, Position
from app.feed.windows import ALL_TYPES, START, Newest, Windows

EPOCH = "7.1.feed"


class MemoryWindows(Windows):
    """Mark n is followed by the events of ``windows[n]``. Calls are counted, and fail while ``fault`` is set."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.epoch = EPOCH
        self.first = 1
        """The oldest mark that is kept."""
        self.windows: dict[int, list[Event]] = {}
        self.calls: Counter[str] = Counter()
        self.fault: Exception | None = None

    @property
    def last(self) -> int:
        """The newest mark."""
        return len(self.windows) + 1

    def add(self, *events: Event) -> None:
        """Make a mark."""
        self.windows[self.last] = sorted(events, key=lambda event: event.position)

    async def newest(self) -> Newest:
        self._call("newest")
        return Newest(self.epoch, self.last, 0.0, unfenced=False)

    async def read(
        self, since: int, upto: int, *, limit: int, types: frozenset[EventType] = ALL_TYPES, after: Position = START
    ) -> list[Event]:
        self._call("read")
        if upto > self.last:
            raise CursorOfAnotherHistory
        if since < self.first:
            raise CursorTooOld
        found = [event for number in range(since, upto) for event in self.windows[number]]
        wanted = [event for event in found if event.type in types and event.position > after]
        return sorted(wanted, key=lambda event: event.position)[:limit]

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        if self.fault is not None:
            raise self.fault

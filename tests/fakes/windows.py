"""The marks and windows of the feed, in memory."""

from collections import Counter
from collections.abc import Callable, Sequence

from app.feed.errors import CursorOfAnotherHistory, CursorTooOld
from app.feed.events import Event, EventType
from app.feed.windows import Key, Newest, Windows

EPOCH = "7.1.feed"


def key_of(event: Event) -> Key:
    """The key of an event."""
    return event.position.id, event.position.version, event.position.line


class MemoryWindows(Windows):
    """Mark n is followed by the events of ``windows[n]``. Calls are counted, and fail while ``fault`` is set."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.epoch = EPOCH
        self.first = 1
        """The oldest mark that is kept."""
        self.windows: dict[int, list[Event]] = {}
        self.gone: list[Event] = []
        """Events of products that have changed since."""
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

    async def read(self, since: int, upto: int, *, limit: int) -> list[Event]:
        self._call("read")
        return self._between(since, upto)[:limit]

    async def step(self, since: int, upto: int, *, limit: int, types: frozenset[EventType]) -> int:
        self._call("step")
        events = 0
        for number in range(since, upto):
            events += len([event for event in self.windows.get(number, []) if event.type in types])
            if events > limit:
                return max(number, since + 1)
        return upto

    async def keys(self, since: int, upto: int, *, limit: int, types: frozenset[EventType], after: Key) -> list[Key]:
        self._call("keys")
        keys = [key_of(event) for event in self._between(since, upto) if event.type in types]
        return [key for key in keys if key > after][:limit]

    async def events(self, since: int, upto: int, keys: Sequence[Key]) -> list[Event]:
        self._call("events")
        self.calls["looked up"] += len(keys)
        return [event for event in self._between(since, upto) if key_of(event) in keys and event not in self.gone]

    def _between(self, since: int, upto: int) -> list[Event]:
        if upto > self.last:
            raise CursorOfAnotherHistory
        if since < self.first:
            raise CursorTooOld
        found = [event for number in range(since, upto) for event in self.windows[number]]
        return sorted(found, key=lambda event: event.position)

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        if self.fault is not None:
            raise self.fault

"""A sample of written keys, which shows how many writes are read before the key's next write (docs/STRATEGIES.md)."""

from collections import Counter
from collections.abc import Iterable
from zlib import crc32

LIMIT = 10_000
"""Most keys that are remembered. The oldest are forgotten first and then not counted."""


class SampledKeys:
    """Counts the writes of one key in ``one_in``, chosen by hash. It sees the reads and writes of its own process only."""

    def __init__(self, one_in: int, counts: Counter[str], limit: int = LIMIT) -> None:
        self._one_in = one_in
        self._counts = counts
        self._limit = limit
        self._unread: dict[str, None] = {}

    def write(self, keys: Iterable[str]) -> None:
        """Record writes. A key whose last write is still unread counts as ``no``."""
        for key in keys:
            if crc32(key.encode()) % self._one_in:
                continue
            if key in self._unread:
                self._counts["no"] += 1
            self._unread[key] = None
            if len(self._unread) > self._limit:
                del self._unread[next(iter(self._unread))]

    def read(self, keys: Iterable[str]) -> None:
        """Record reads. The first one after a write counts as ``yes``."""
        for key in keys:
            if key in self._unread:
                del self._unread[key]
                self._counts["yes"] += 1

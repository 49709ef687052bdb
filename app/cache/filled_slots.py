"""The keys whose slot this process last saw filled, so that their writers need no lease."""

from collections.abc import Sequence


class FilledSlots:
    """A bounded set of keys. A wrong entry costs one miss, never a stale read.

    It is two sets. When the younger one has half of the limit, it becomes the older one, and what that had is forgotten: so
    nothing is searched for the oldest key.
    """

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._young: set[str] = set()
        self._old: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._young or key in self._old

    def others(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are not recorded."""
        young, old = self._young, self._old
        return [key for key in keys if key not in young and key not in old]

    def add(self, key: str) -> None:
        """Record that a key's slot is filled."""
        if len(self._young) >= self._half:
            self._young, self._old = set(), self._young
        self._young.add(key)

    def discard(self, key: str) -> None:
        """Record that a key's slot may be empty."""
        self._young.discard(key)
        self._old.discard(key)

"""The keys whose slot this process last saw filled, so that their writers need no lease."""

from collections.abc import Sequence


class FilledSlots:
    """A bounded set of keys. The oldest are removed first. A wrong entry costs one miss, never a stale read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def others(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are not recorded."""
        known = self._keys
        return [key for key in keys if key not in known]

    def add(self, key: str) -> None:
        """Record that a key's slot is filled."""
        self._keys[key] = None
        if len(self._keys) > self._limit:
            del self._keys[next(iter(self._keys))]

    def discard(self, key: str) -> None:
        """Record that a key's slot may be empty."""
        self._keys.pop(key, None)

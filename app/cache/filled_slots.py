"""The keys whose slot this process last saw filled, so that their writers need no lease."""


class FilledSlots:
    """A bounded set of keys. The oldest are removed first. A wrong entry costs one miss, never a stale read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        """Record that a key's slot is filled."""
        self._keys[key] = None
        if len(self._keys) > self._limit:
            del self._keys[next(iter(self._keys))]

    def discard(self, key: str) -> None:
        """Record that a key's slot may be empty."""
        self._keys.pop(key, None)

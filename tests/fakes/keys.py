"""Keys in memory: a ``KeySource`` that tests change, hold and fail."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from app.access.key_ring import KeyList, KeySource
from app.access.keys import Scope, StoredKey, make_key

READ = frozenset({Scope.PRODUCTS_READ})


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class MemoryKeys(KeySource):
    """Keys in memory, with a new generation for each change."""

    keys: dict[str, StoredKey] = field(default_factory=dict)
    changes: int = 0
    fault: Exception | None = None
    held: asyncio.Event | None = None
    """While set, a query has its answer already, and returns it when the event is set."""
    reads: int = 0
    used: list[str] = field(default_factory=list)

    def add(
        self,
        client: str = "till",
        scopes: frozenset[Scope] = READ,
        rate_per_s: float | None = None,
        expires_in_s: float = float("inf"),
    ) -> bytes:
        """Add a key; return the header that shows it."""
        key, digest = make_key()
        stored = StoredKey(f"k{len(self.keys)}", client, scopes, digest, rate_per_s, expires_in_s)
        self.keys[stored.id] = stored
        self.changes += 1
        return b"Bearer " + key.encode()

    def revoke(self, key_id: str) -> None:
        """End a key."""
        del self.keys[key_id]
        self.changes += 1

    @override
    async def valid_keys(self, known: str) -> KeyList:
        if self.fault is not None:
            raise self.fault
        generation = str(self.changes)
        found = None if generation == known else list(self.keys.values())
        self.reads += found is not None
        if self.held is not None:
            await self.held.wait()
        return KeyList(generation, found)

    @override
    async def record_use(self, ids: Sequence[str]) -> None:
        self.used += ids

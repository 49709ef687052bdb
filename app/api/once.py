"""A value that costs something, made for many requests at once and at most once in a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class CachedValue(Generic[Value]):
    """A value that is made when it is needed, and then shared by the requests of the next ``life_s`` seconds.

    Requests that come while it is made wait for it. A failure is shared in the same way.
    """

    def __init__(
        self, make: Callable[[], Awaitable[Value]], life_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = make
        self._life_s = life_s
        self._clock = clock
        self._making: asyncio.Task[Value] | None = None
        self._fresh_until = float("-inf")

    async def value(self) -> Value:
        """Return the value. Raises what making it raised."""
        if self._making is None or (self._making.done() and self._clock() >= self._fresh_until):
            self._making = asyncio.ensure_future(self._made())
        return await asyncio.shield(self._making)

    async def _made(self) -> Value:
        try:
            return await self._make()
        finally:
            self._fresh_until = self._clock() + self._life_s

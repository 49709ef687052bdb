"""Replaces a connection to Redis that has reached its age, without a moment in which there is none.

A server or a token may limit the life of connections. Its end would look like a failure, so the connection is replaced before.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from ..errors import StoreUnavailable

AGE_JITTER = 0.1
"""The greatest share of the age by which a connection is replaced earlier, so that instances do not all do it at once."""
RETIREMENT_S = 60.0
"""How long a replaced connection stays open, for an audit that uses it until its end."""


class Closable(Protocol):
    """A connection, as far as this module knows it."""

    def retire(self) -> None:
        """Drop what only later calls would need."""

    async def close(self) -> None:
        """Close it for good."""


Connection = TypeVar("Connection", bound=Closable)


class Succession(Generic[Connection]):
    """The connections of a link, one after another.

    Args:
        open_another: opens a connection; it limits its own duration, and raises ``StoreUnavailable``.
        max_age_s: the age at which a connection is replaced; 0 is never.
        retry_s: pause before the next attempt, if no other connection could be opened.
    """

    def __init__(self, open_another: Callable[[], Awaitable[Connection]], max_age_s: int, retry_s: float) -> None:
        self.max_age_s = max_age_s
        self._open_another = open_another
        self._retry_s = retry_s
        self._present: Connection | None = None
        self._ends = 0.0
        self._successor: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._retirements: dict[asyncio.Task[None], Connection] = {}

    def present(self, connection: Connection | None) -> Connection | None:
        """Return the connection for the next call: this one, or its successor if that is ready."""
        if self._successor is not None:
            if connection is not None:
                connection.retire()
                retirement = asyncio.create_task(_retire(connection))
                self._retirements[retirement] = connection
                retirement.add_done_callback(self._retirements.pop)
            connection, self._successor = self._successor, None
        if connection is not self._present:
            self._present = connection
            self._ends = time.monotonic() + self.max_age_s * random.uniform(1 - AGE_JITTER, 1)
        if connection is not None and self._opening is None and time.monotonic() > self._ends:
            self._opening = asyncio.create_task(self._open())
        return connection

    async def aclose(self) -> None:
        """Close the connections that are not yet, or no longer, in use."""
        retired = list(self._retirements.values())
        tasks = [*self._retirements, *([] if self._opening is None else [self._opening])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in (*retired, self._successor):
            if connection is not None:
                await connection.close()

    async def _open(self) -> None:
        try:
            self._successor = await self._open_another()
        except StoreUnavailable:
            self._ends = time.monotonic() + self._retry_s
        finally:
            self._opening = None


async def _retire(connection: Closable) -> None:
    await asyncio.sleep(RETIREMENT_S)
    await connection.close()

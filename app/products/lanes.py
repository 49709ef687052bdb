"""Where a write waits for its transaction: in the first lane that is not held up.

One lane joins best: what waits while its transaction is under way is the next one. But a transaction can be held up, by a row
that somebody has locked, say; then what comes later takes the next lane. A product that a lane has in hand, or waiting, stays
with it: in another lane it would only wait for its row, and hold that lane up, too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from app.cache.joined import Joined
from app.products.idempotency import Asked

Result = TypeVar("Result")

TURNS = 5
"""Of the event loop, between a joined transaction and the next: a fifth less processor time for a write under load."""


class Lanes(Generic[Result]):
    """The lanes of one process's writes.

    Args:
        send: runs one transaction for the requests of a batch.
        lanes: most transactions under way.
        batch_weight: most weight in one transaction.
        queue_limit: most requests that wait in a lane, beyond which ``Overloaded`` is raised.
        patience_s: how long a transaction may be under way before later requests go by another lane.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Asked]], Awaitable[Sequence[Result | Exception]]],
        *,
        lanes: int,
        batch_weight: int,
        queue_limit: int,
        patience_s: float,
    ) -> None:
        self._patience_s = patience_s
        self._lanes: Sequence[Joined[Asked, Result]] = [
            Joined(send, weigh=_weight, batch_weight=batch_weight, queue_limit=queue_limit, turns=TURNS) for _ in range(lanes)
        ]

    def submit(self, asked: Asked) -> "asyncio.Future[Result]":
        """Put a request into the transaction that begins next in its lane. Raises ``Overloaded``."""
        return self.of(asked).submit(asked)

    def of(self, asked: Asked) -> Joined[Asked, Result]:
        """Give the lane that a request would take now."""
        held_up = asyncio.get_running_loop().time() - self._patience_s
        for lane in self._lanes[:-1]:
            if lane.sent_at is None or lane.sent_at > held_up or _has(lane, asked):
                return lane
        return self._lanes[-1]

    async def aclose(self) -> None:
        """Finish what was accepted."""
        for lane in self._lanes:
            await lane.aclose()


def _has(lane: Joined[Asked, Result], asked: Asked) -> bool:
    names = set(asked.command.keys)
    return any(not names.isdisjoint(other.command.keys) for other in lane.items())


def _weight(asked: Asked) -> int:
    return max(1, asked.command.weight)

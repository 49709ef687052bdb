"""Where a write waits for its transaction: in the first lane that is not held up.

One lane joins best: what waits while its transaction is under way is the next one. But a transaction can be held up, by a row
that somebody has locked, say; then what comes later takes the next lane. A product that a lane has in hand, or waiting, stays
with it: in another lane it would only wait for its row, and hold that lane up, too.
"""

import asyncio
from collections import Counter
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
        self._in_hand: Sequence[Counter[str]] = [Counter() for _ in range(lanes)]

    def submit(self, asked: Asked) -> "asyncio.Future[Result]":
        """Put a request into the transaction that begins next in its lane. Raises ``Overloaded``."""
        number = self._choose(asked)
        future = self._lanes[number].submit(asked)
        self._in_hand[number].update(asked.command.keys)
        future.add_done_callback(lambda _: self._let_go(number, asked))
        return future

    def _choose(self, asked: Asked) -> int:
        limit = asyncio.get_running_loop().time() - self._patience_s
        held_up = [n for n, lane in enumerate(self._lanes) if lane.sent_at is not None and lane.sent_at <= limit]
        if not held_up:
            return 0
        for number in held_up:
            if any(name in self._in_hand[number] for name in asked.command.keys):
                return number
        return next((number for number in range(len(self._lanes)) if number not in held_up), len(self._lanes) - 1)

    def _let_go(self, number: int, asked: Asked) -> None:
        in_hand = self._in_hand[number]
        for name in asked.command.keys:
            in_hand[name] -= 1
            if in_hand[name] <= 0:
                del in_hand[name]

    async def aclose(self) -> None:
        """Finish what was accepted."""
        for lane in self._lanes:
            await lane.aclose()


def _weight(asked: Asked) -> int:
    return max(1, asked.command.weight)

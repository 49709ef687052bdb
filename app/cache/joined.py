"""Joining: requests that wait while a round trip is under way share the next one (R7).

The first request goes at once, so an idle lane adds no wait; those that arrive meanwhile form the next batch. Nobody
joins a batch that was sent: it may have read before a write that the newcomer must see.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from app.cache.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Joined(Generic[Item, Result]):
    """One lane of batches. ``send`` gets the items of one batch and returns as many results, in order.

    An error that ``send`` raises reaches every request of its batch. A result that is an exception reaches its own request
    only. A request that is cancelled leaves its batch alone.

    Args:
        send: carries one batch; must bound its own time.
        weigh: an item's share of ``batch_weight``, e.g. its number of keys.
        same: what items have in common that weigh one together, e.g. the key that one load reads for all of them.
        batch_weight: most weight in one batch; a heavier item travels alone.
        queue_limit: most waiting items, beyond which ``Overloaded`` is raised at once.
        turns: of the event loop, that pass after a batch of several before the next one leaves. Under load, those who were just
            answered ask again: in that time most of them are back, and share one batch instead of following in two.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        weigh: Callable[[Item], int] | None = None,
        same: Callable[[Item], Hashable] | None = None,
        batch_weight: int,
        queue_limit: int,
        turns: int = 0,
    ) -> None:
        self._send = send
        self._turns = turns
        self._weigh = weigh
        self._same = same
        self._batch_weight = batch_weight
        self._queue_limit = queue_limit
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Put an item into the batch that leaves next; its future ends with its result.

        Raises:
            Overloaded: ``queue_limit`` items are waiting already.
        """
        if len(self._waiting) >= self._queue_limit:
            raise Overloaded(f"{self._queue_limit} requests are waiting already")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._drain())
        return future

    async def aclose(self) -> None:
        """Let the batch under way and all waiting ones finish."""
        while self._sender is not None:
            await asyncio.shield(self._sender)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                await self._carry(batch)
                if len(batch) > 1:
                    for _ in range(self._turns):
                        await asyncio.sleep(0)
        finally:
            # Nothing is awaited between the last look at the queue and this line, so no request can be left behind.
            self._sender = None

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        seen: set[Hashable] = set()
        while self._waiting:
            item, future = self._waiting[0]
            if future.done():  # cancelled while it waited
                self._waiting.popleft()
                continue
            if self._same is None:
                weight += self._weigh(item) if self._weigh else 1
            elif (name := self._same(item)) not in seen:
                seen.add(name)
                weight += 1
            if batch and weight > self._batch_weight:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _carry(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        try:
            results: Sequence[Result | Exception] = await self._send([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers', who are waiting for it
            results = [error] * len(batch)
        if len(results) != len(batch):
            results = [RuntimeError(f"{len(results)} results came back for {len(batch)} requests")] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller left
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # marks it as seen: a caller who leaves now causes no warning
            else:
                future.set_result(result)

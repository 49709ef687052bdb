"""Batches: requests that wait while a round trip is under way share the next one (R7).

The first request is sent at once, so an idle batcher delays no request. Requests that arrive while a batch is under way form
the next one. A request never joins a batch already sent. That batch may have read before a write that this request must see.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from .errors import Overloaded
from .tracing import Joined, Unit

Item = TypeVar("Item")
Result = TypeVar("Result")
Send = Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]
_Waiting = tuple[Item, "asyncio.Future[Result]", Unit | None]


class Batcher(Generic[Item, Result]):
    """Sends one batch of items at a time.

    An error that ``send`` raises reaches every request of its batch. A result that is an exception reaches its own request
    only. A request that is cancelled does not disturb the rest of its batch. A caller leaves by cancelling its future, or by
    ending it with an error of its own.

    Args:
        send: gets the items of one batch and returns as many results, in order; it must limit its own duration.
        weight: an item's share of ``max_weight``, e.g. its number of keys; 1 if not given.
        group_key: items with the same key count once towards ``max_weight``, e.g. because one load serves them all.
        max_weight: largest total weight of a batch; a heavier item is sent alone.
        queue_limit: most items that wait, beyond which ``Overloaded`` is raised at once.
        yields: event-loop iterations between the end of a batch of several items and the next batch. Under load, callers
            send their next requests in these iterations, and so share one batch instead of two.
        joined: makes the context in which a batch is sent, from the units of its items that have one.
        held: whether an item may not be sent yet; it is passed over. ``resume`` must be called when that has changed.
        left: is told of an item whose caller left before its batch was sent.
        unclaimed: gets the result of an item whose caller left while its batch was under way.
    """

    def __init__(
        self,
        send: Send[Item, Result],
        *,
        weight: Callable[[Item], int] | None = None,
        group_key: Callable[[Item], Hashable] | None = None,
        max_weight: int,
        queue_limit: int,
        yields: int = 0,
        joined: Joined | None = None,
        held: Callable[[Item], bool] | None = None,
        left: Callable[[Item], None] | None = None,
        unclaimed: Callable[[Result], None] | None = None,
    ) -> None:
        self._send = send
        self._weight = weight
        self._group_key = group_key
        self._max_weight = max_weight
        self._queue_limit = queue_limit
        self._yields = yields
        self._joined = joined
        self._held = held
        self._left = left
        self._unclaimed = unclaimed
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        """The loop on which the sender runs. In Python 3.11, asking for the running loop is a system call."""

    @property
    def waiting(self) -> int:
        """Number of items that no batch has taken yet."""
        return len(self._waiting)

    @property
    def oldest(self) -> Item | None:
        """The item that has waited longest, or ``None`` if none waits."""
        return self._waiting[0][0] if self._waiting else None

    def submit(self, item: Item, unit: Unit | None = None) -> "asyncio.Future[Result]":
        """Put an item into the next batch and return the future of its result. ``unit`` is the one that waits for it.

        Raises:
            Overloaded: ``queue_limit`` items are waiting already.
        """
        if len(self._waiting) >= self._queue_limit:
            raise Overloaded(f"{self._queue_limit} requests are waiting already")
        if self._sender is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = self._loop.create_future()
        self._waiting.append((item, future, unit))
        if self._sender is None:
            self._start_sender()
        return future

    async def request(self, item: Item, unit: Unit | None = None) -> Result:
        """Put an item into the next batch and return its result.

        A caller who is cancelled when the result has come but was not taken yet counts as one who left, too.
        """
        future = self.submit(item, unit)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None and self._unclaimed is not None:
                self._unclaimed(future.result())
            raise

    def resume(self) -> None:
        """Send what was held back and may go now."""
        if self._waiting and self._sender is None:
            self._start_sender()

    async def aclose(self) -> None:
        """Finish the batch under way and all waiting ones but those that are held back."""
        while self._sender is not None:
            await asyncio.shield(self._sender)

    def _start_sender(self) -> None:
        sender = asyncio.create_task(self._drain())
        self._sender = None if sender.done() else sender  # an eager task may have sent everything at once

    async def _drain(self) -> None:
        try:
            while batch := self._take():
                await self._deliver(batch)
                if len(batch) > 1:
                    for _ in range(self._yields):
                        await asyncio.sleep(0)
        finally:
            # Nothing is awaited between the last look at the queue and this line, so no request can be left behind.
            self._sender = None

    def _take(self) -> "list[_Waiting[Item, Result]]":
        batch: list[_Waiting[Item, Result]] = []
        weight = 0
        groups: set[Hashable] = set()
        passed_over: list[_Waiting[Item, Result]] = []
        while self._waiting:
            item, future, _ = self._waiting[0]
            if future.done():  # its caller has left
                self._waiting.popleft()
                if self._left is not None:
                    self._left(item)
                continue
            if self._held is not None and self._held(item):
                passed_over.append(self._waiting.popleft())
                continue
            if self._group_key is None:
                weight += self._weight(item) if self._weight else 1
            elif (key := self._group_key(item)) not in groups:
                groups.add(key)
                weight += 1
            if batch and weight > self._max_weight:
                break
            batch.append(self._waiting.popleft())
        self._waiting.extendleft(reversed(passed_over))
        return batch

    async def _deliver(self, batch: "list[_Waiting[Item, Result]]") -> None:
        try:
            results: Sequence[Result | Exception]
            if self._joined is None:
                results = await self._send([item for item, _, _ in batch])
            else:
                with self._joined([unit for _, _, unit in batch if unit is not None]):
                    results = await self._send([item for item, _, _ in batch])
        except asyncio.CancelledError:
            for _, future, _ in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - pass any error to the waiting callers
            results = [error] * len(batch)
        if len(results) != len(batch):
            results = [RuntimeError(f"{len(results)} results came back for {len(batch)} requests")] * len(batch)
        for (_, future, _), result in zip(batch, results, strict=True):
            self._answer(future, result)

    def _answer(self, future: "asyncio.Future[Result]", result: Result | Exception) -> None:
        if future.done():  # its caller has left
            if self._unclaimed is not None and not isinstance(result, Exception):
                self._unclaimed(result)
        elif isinstance(result, Exception):
            future.set_exception(result)
            future.exception()  # marks it as retrieved, so that asyncio does not warn if the caller no longer waits
        else:
            future.set_result(result)

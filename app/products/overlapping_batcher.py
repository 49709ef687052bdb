"""Batches that overlap: the next one is sent while the one before is answered.

A transaction for requests of one product has to wait until the one before is committed, because that holds the row. It does not
have to wait until the one before is published and answered. So while PostgreSQL carries out one batch, this process answers the
other.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

from typing_extensions import override

from app.cache.batcher import Batcher, Item, Result, Waiting

ENOUGH = 0.75
"""Part of a share that has to wait, so that the next batch is sent before the last one is answered.

Otherwise it is sent afterwards, together with the next requests of the callers that are answered.
"""


class Overlap:
    """How a batch is tied to those before and behind it. A batch that overlaps no other is tied to none."""

    def __init__(self, earlier: "asyncio.Task[None] | None" = None) -> None:
        self._earlier = earlier
        self._free = asyncio.Event()

    def free(self) -> None:
        """Let the next batch be sent."""
        self._free.set()

    async def freed(self) -> None:
        """Return when the next batch may be sent."""
        await self._free.wait()

    async def turn(self) -> None:
        """Return when the batch before is answered, so that the answers come in the order of the batches."""
        if self._earlier is not None:
            await asyncio.wait({self._earlier})


OverlappingSend = Callable[[Sequence[Item], Overlap], Awaitable[Sequence[Result | Exception]]]


class OverlappingBatcher(Batcher[Item, Result]):
    """A batcher whose next batch may be sent before the one before is answered. At most two are under way.

    Args:
        send: gets the items of one batch and its ``Overlap``. It calls ``free`` when the next batch may be sent, and awaits
            ``turn`` before it returns the results. It is called in the step in which the batch is taken.
        share: returns how many items the next batch may have, so that others wait for the one after it; 0 if batches must not
            overlap now, e.g. because a few items are cheaper together.
        weight, max_weight, queue_limit, yields: as for ``Batcher``.
    """

    def __init__(
        self,
        send: OverlappingSend[Item, Result],
        share: Callable[[], int],
        *,
        weight: Callable[[Item], int],
        max_weight: int,
        queue_limit: int,
        yields: int,
    ) -> None:
        super().__init__(
            lambda batch: send(batch, Overlap()), weight=weight, max_weight=max_weight, queue_limit=queue_limit, yields=yields
        )
        self._send_overlapping = send
        self._share = share

    @override
    async def _drain(self) -> None:
        earlier: asyncio.Task[None] | None = None
        batch: list[Waiting[Item, Result]] = []
        try:
            while True:
                share = self._share()
                if earlier is not None and (not share or len(self._waiting) < ENOUGH * share):
                    await asyncio.wait({earlier})
                    await self._let_callers_send(batch)
                    earlier = None
                    continue
                batch = self._take(share or sys.maxsize)
                if not batch and earlier is None:
                    return
                if not share:
                    await self._deliver(batch, self._send)
                    await self._let_callers_send(batch)
                elif batch:
                    earlier = await self._sent(batch, earlier)
        finally:
            # Nothing is awaited between the last look at the queue and this line, so no request can be left behind.
            self._sender = None

    async def _sent(
        self, batch: Sequence["Waiting[Item, Result]"], earlier: "asyncio.Task[None] | None"
    ) -> "asyncio.Task[None]":
        """Send a batch; return the task that answers it when the next one may be sent, and the one before is answered."""
        overlap = Overlap(earlier)
        sending = self._send_overlapping([item for item, _, _ in batch], overlap)
        task = asyncio.create_task(self._deliver(batch, lambda _: sending))
        task.add_done_callback(lambda _: overlap.free())
        await overlap.freed()
        await overlap.turn()
        return task

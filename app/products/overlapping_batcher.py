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

OverlappingSend = Callable[[Sequence[Item], Callable[[], None]], Awaitable[Sequence[Result | Exception]]]


def nothing() -> None:
    """Do nothing."""


class OverlappingBatcher(Batcher[Item, Result]):
    """A batcher whose next batch may be sent before the one before is answered. At most two are under way.

    Args:
        send: gets the items of one batch and a function, which it calls when the next batch may be sent.
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
            lambda batch: send(batch, nothing), weight=weight, max_weight=max_weight, queue_limit=queue_limit, yields=yields
        )
        self._send_and_free = send
        self._share = share

    @override
    async def _drain(self) -> None:
        earlier: asyncio.Task[None] | None = None
        try:
            while True:
                share = self._share()
                batch = self._take(share or sys.maxsize)
                if not batch and earlier is None:
                    return
                sent = await self._sent(batch, overlaps=bool(share)) if batch else None
                if earlier is not None:
                    await earlier
                earlier = sent
                if sent is not None and len(self._waiting) < ENOUGH * share:
                    await sent
                    earlier = None
                if earlier is None:
                    await self._let_callers_send(batch)
        finally:
            # Nothing is awaited between the last look at the queue and this line, so no request can be left behind.
            self._sender = None

    async def _sent(self, batch: Sequence["Waiting[Item, Result]"], *, overlaps: bool) -> "asyncio.Task[None] | None":
        """Send a batch; return when the next one may be sent, with the task that answers this one if it is not answered yet."""
        if not overlaps:
            await self._deliver(batch, self._send)
            return None
        free = asyncio.Event()
        task = asyncio.create_task(self._deliver(batch, lambda items: self._send_and_free(items, free.set)))
        task.add_done_callback(lambda _: free.set())
        await free.wait()
        return task

"""Accepted writes as the endpoints see them: accept a request, tell what became of it, and decide what waits."""

import asyncio

from app.cache.errors import NotSettled
from app.cache.write_through import WriteThrough
from app.products.acceptance import Acceptance, Accepted
from app.products.accepted import AcceptedStats, AcceptedWrite, Decode, WriteState
from app.products.errors import OutcomeUnknown
from app.products.transaction import Committed
from app.products.transactions import ProductTransactions


class AcceptedWrites:
    """The accepted writes of the database. ``stats`` are the counts of this process and the backlog."""

    def __init__(
        self,
        cache: WriteThrough,
        transactions: ProductTransactions,
        acceptance: Acceptance,
        decode: Decode,
        stats: AcceptedStats,
        *,
        request_timeout_ms: int,
    ) -> None:
        self.stats = stats
        self._cache = cache
        self._transactions = transactions
        self._acceptance = acceptance
        self._decode = decode
        self._timeout_s = request_timeout_ms / 1000

    async def accept(self, write: AcceptedWrite) -> Accepted:
        """Accept a request. See ``Acceptance.accept``; also raises ``OutcomeUnknown`` at the deadline."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._acceptance.accept(write)
        except TimeoutError as error:
            raise OutcomeUnknown("the write was not accepted before its deadline") from error

    async def state(self, caller: str, key: str) -> WriteState | None:
        """Return what became of a request; ``None`` if the database has no such key of this caller.

        "Decided" is an acknowledgement, so the present rows of its products are published first, or it settles (R10).

        Raises:
            OutcomeUnknown: it was decided, but not yet proven visible to every reader.
            DatabaseError: nothing is known.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                found, acknowledgement = await self._cache.write((), lambda: self._acceptance.find(caller, key))
                if found.states:
                    await self._cache.settle(acknowledgement)
        except (TimeoutError, NotSettled) as error:
            raise OutcomeUnknown("the write was decided, and readers may still get an older state") from error
        return found.state

    async def apply(self, only: int | None) -> Committed:
        """Decide the lowest rows, or only the row of a number, and publish. See ``ProductTransactions.apply``."""
        committed, _ = await self._cache.write((), lambda: self._transactions.apply(self._decode, only))
        return committed

    async def aclose(self) -> None:
        """Finish what was submitted."""
        await self._acceptance.aclose()

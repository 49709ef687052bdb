"""Removes stored answers that have expired, in bounded steps."""

import asyncio
import logging

from app.cache.stats import Stats
from app.postgres.errors import DatabaseError
from app.products.transactions import ProductTransactions

log = logging.getLogger(__name__)

STEP = 1_000
"""Most answers that one statement removes, so that none holds its locks for long."""


class AnswerPruner:
    """Removes old answers in the background. Several processes do not disturb each other: each skips what another removes."""

    def __init__(
        self, transactions: ProductTransactions, stats: Stats, *, keep_s: float, pause_s: float, step: int = STEP
    ) -> None:
        self._transactions = transactions
        self._stats = stats
        self._keep_s = keep_s
        self._pause_s = pause_s
        self._step = step

    async def run(self) -> None:
        """Prune after every pause until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self.prune()
            except DatabaseError as error:
                log.info("old answers could not be removed now, this is tried again later: %s", error)
            except Exception:
                self._stats.unexpected += 1
                log.exception("old answers could not be removed now, this is tried again later")

    async def prune(self) -> int:
        """Remove every answer that is old enough; return their number. Raises a ``DatabaseError``."""
        removed = 0
        while step := await self._transactions.forget(age_s=self._keep_s, limit=self._step):
            removed += step
            if step < self._step:
                break
        return removed

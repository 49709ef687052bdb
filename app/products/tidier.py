"""Gives back what ended reservations hold, and removes old reservations, in the background.

Nothing depends on it: whoever needs the units takes them back. It lets the answers of other reads show that they are free.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from app.cache.errors import CacheError
from app.cache.stats import Stats
from app.postgres.errors import DatabaseError
from app.products.errors import OutcomeUnknown
from app.products.reservation import HeldUnits
from app.products.reservation_source import ReservationSource
from app.products.service import Products

log = logging.getLogger(__name__)

STEP = 500
"""Most reservations that one transaction closes or one statement removes."""
STEP_LINES = 2_000
"""Lines after which no further reservation joins a step."""
FORGET_EVERY_S = 600.0
COUNT_EVERY_S = 2.0


class Tidier:
    """Closes ended reservations of the database in steps. One process at a time does it; the others skip their turn."""

    def __init__(
        self,
        products: Products,
        source: ReservationSource,
        stats: Stats,
        *,
        pause_s: float,
        keep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._products = products
        self._source = source
        self._stats = stats
        self._pause_s = pause_s
        self._keep_s = keep_s
        self._clock = clock
        self._forget_at = clock() + FORGET_EVERY_S
        self._count_at = clock()
        self.held = HeldUnits()
        """What reservations held when it was last counted, for the metrics."""

    async def run(self) -> None:
        """Tidy after every pause until cancelled."""
        failing = False
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self.tidy()
                if self._clock() >= self._count_at:
                    self._count_at = self._clock() + COUNT_EVERY_S
                    self.held = await self._source.held()
                if self._clock() >= self._forget_at:
                    self._forget_at = self._clock() + FORGET_EVERY_S
                    await self.forget()
                failing = False
            except (DatabaseError, CacheError, OutcomeUnknown) as error:
                log.log(
                    logging.DEBUG if failing else logging.INFO,
                    "ended reservations could not be tidied now, this is tried again all the time: %s", error,
                )  # fmt: skip
                failing = True
            except Exception:
                self._stats.unexpected += 1
                log.exception("ended reservations could not be tidied now, this is tried again later")

    async def tidy(self) -> int:
        """Give back what every ended reservation holds; return their number. Raises as ``Products.write``."""
        closed, before = 0, list[str]()
        while ids := await self._source.ended(limit=STEP, lines=STEP_LINES):
            # The same ids came again: other transactions hold their products, so a later run closes them.
            if ids == before or not await self._products.tidy(ids):
                break
            closed += len(ids)
            if len(ids) < STEP:
                break
            before = ids
        return closed

    async def forget(self) -> int:
        """Remove every reservation that was closed long enough ago; return their number. Raises as ``Products.get``."""
        removed = 0
        while step := await self._source.forget(age_s=self._keep_s, limit=STEP):
            removed += step
            if step < STEP:
                break
        return removed

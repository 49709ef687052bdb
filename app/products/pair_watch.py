"""The task that reads again and again which buckets the database holds."""

import asyncio
import logging
import time

from app.cache.ports import Clock
from app.cache.stats import Stats
from app.postgres.database import Database
from app.postgres.errors import DatabaseError, DatabaseUnsuitable
from app.products.pair import GOOD_FOR_S, Pair
from app.products.pair_queries import READ

_RENEWAL_S = 0.5
log = logging.getLogger(__name__)


class PairWatch:
    """Reads twice a second which buckets the database holds, on the connection for keys, so that no load delays it.

    Args:
        pair: what takes note of them.
        database: where they are read.
        stats: counts unexpected errors.
        clock: a monotonic clock.
    """

    def __init__(self, pair: Pair, database: Database, stats: Stats, clock: Clock = time.monotonic) -> None:
        self._pair = pair
        self._pool = database.keys
        self._stats = stats
        self._clock = clock
        self._failing = False
        self._told = ""
        pair.refuse_until_read()

    async def run(self) -> None:
        """Read until cancelled. While it fails, what was read last becomes too old by itself."""
        while True:
            await self.renew()
            await asyncio.sleep(_RENEWAL_S)

    async def renew(self) -> None:
        """Read once. A failure is logged once until the next success; every unexpected error is counted."""
        asked_at = self._clock()
        try:
            ranges, moving = await self._read()
            self._pair.note_reading(ranges, moving, asked_at)
            self._tell(ranges, moving)
            self._failing = False
        except Exception as error:
            expected = isinstance(error, DatabaseError)
            self._stats.unexpected += not expected
            if not self._failing:
                log.log(
                    logging.WARNING if expected else logging.ERROR,
                    "the buckets of this pair cannot be read, requests are refused when the last reading is %g s old: %s",
                    GOOD_FOR_S,
                    error,
                    exc_info=None if expected else error,
                )
            self._failing = True

    async def _read(self) -> tuple[str, str]:
        rows = await self._pool.rows(READ)
        if not rows:
            raise DatabaseUnsuitable("the table pair_buckets is empty; stop the instances and run larder buckets")
        return rows[0][0], rows[0][1]

    def _tell(self, ranges: str, moving: str) -> None:
        """Log once that the settings are out of date."""
        differs = "" if moving or ranges == self._pair.configured else ranges
        if differs and differs != self._told:
            log.warning(
                "LARDER_BUCKETS is %s, and the database holds %s since a move: this instance goes on with what the database"
                " says; set the variable before the next start, which would be refused",
                self._pair.configured,
                ranges,
            )
        self._told = differs

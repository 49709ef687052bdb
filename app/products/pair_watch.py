"""The task that reads again and again which buckets the database holds."""

import asyncio
import logging
import time

from app.cache.ports import Clock
from app.postgres.database import Database
from app.products.pair import Pair
from app.products.pair_queries import READ

_RENEWAL_S = 0.5
log = logging.getLogger(__name__)


class PairWatch:
    """Reads twice a second which buckets the database holds, on the connection for keys, so that no load delays it."""

    def __init__(self, pair: Pair, database: Database, clock: Clock = time.monotonic) -> None:
        self._pair = pair
        self._pool = database.keys
        self._clock = clock
        self._told = ""
        pair.must_read()

    async def run(self) -> None:
        """Read until cancelled. While it fails, what was read last becomes too old by itself."""
        while True:
            await self.renew()
            await asyncio.sleep(_RENEWAL_S)

    async def renew(self) -> None:
        """Read once."""
        asked_at = self._clock()
        try:
            rows = await self._pool.rows(READ)
        except Exception:  # noqa: BLE001 - whatever failed: requests are refused when the last reading is too old
            return
        for ranges, moving in rows:
            self._pair.read(ranges, moving, asked_at)
            self._tell(ranges, moving)

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

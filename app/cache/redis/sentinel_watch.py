"""Leaves a Redis that most sentinels no longer name as the master.

A master that was stopped goes on as a master until the sentinels make it a replica, for ten seconds and more. If one idle
process kept its connection there, its audits and those of the others would take the trust from each other, and every instance
would read the database meanwhile. That is safe, and needless.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

from ..stats import Stats
from .connection import RedisLink
from .places import RedisPlace

log = logging.getLogger(__name__)

EARLIEST_SHARE = 0.8
"""Shortest pause as a share of the interval. Pauses vary, so that the processes do not all ask at once."""


class SentinelWatch:
    """Asks the sentinels of a place once per interval, for all links of a process.

    Args:
        place: where the data server is.
        links: returns the present links to it.
        interval_s: pause between two questions.
        stats: counts unexpected errors.
    """

    def __init__(self, place: RedisPlace, links: Callable[[], Iterable[RedisLink]], interval_s: float, stats: Stats) -> None:
        self._place = place
        self._links = links
        self._interval_s = interval_s
        self._stats = stats
        self._chance = random.Random()
        self._trouble = ""

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s * self._chance.uniform(EARLIEST_SHARE, 1.0))
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - e.g. a password cannot be read; the links are kept
                self._stats.unexpected += 1
                trouble = str(error) or type(error).__name__
                if trouble != self._trouble:  # logged once, because it may last
                    log.warning("the sentinels cannot be asked, and the connections to Redis are kept: %s", trouble)
                self._trouble = trouble
            else:
                self._trouble = ""

    async def look(self) -> None:
        """Ask once. Without an address that most of the answers give, every connection is kept."""
        if named := await self._place.named():
            for link in self._links():
                await link.leave(named)

"""Removes what has expired, such as stored answers, in bounded steps."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from app.cache.stats import Stats
from app.postgres.errors import DatabaseError

log = logging.getLogger(__name__)

STEP = 1_000
"""Most rows that one statement removes, so that none holds its locks for long."""


class Forget(Protocol):
    """Removes up to ``limit`` rows that are old enough, and returns their number."""

    async def __call__(self, *, limit: int) -> int:
        """Do so. Raises a ``DatabaseError``."""


class Pruner:
    """Removes old rows in the background. Several processes do not disturb each other: each skips what another removes.

    Args:
        forget: by what is removed, in the plural, for the log.
        stats: counts unexpected errors.
        pause_s: pause between two removals.
        step: most rows that one statement removes.
    """

    def __init__(self, forget: Mapping[str, Forget], stats: Stats, *, pause_s: float, step: int = STEP) -> None:
        self._forget = forget
        self._stats = stats
        self._pause_s = pause_s
        self._step = step

    async def run(self) -> None:
        """Prune after every pause until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            for name in self._forget:
                try:
                    await self.prune(name)
                except DatabaseError as error:
                    log.info("old %s could not be removed now, this is tried again later: %s", name, error)
                except Exception:
                    self._stats.unexpected += 1
                    log.exception("old %s could not be removed now, this is tried again later", name)

    async def prune(self, name: str) -> int:
        """Remove everything of one kind that is old enough; return its number. Raises a ``DatabaseError``."""
        removed = 0
        while step := await self._forget[name](limit=self._step):
            removed += step
            if step < self._step:
                break
        return removed

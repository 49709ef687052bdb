"""A log for events that clients cause: a few lines a second, so that nobody can fill a disk from outside."""

import logging
import time
from collections.abc import Callable

_INTERVAL_S = 1.0


class SparseLog:
    """Writes at most so many lines a second to a logger. The next line says how many were left out before it.

    Args:
        logger: where the lines go.
        clock: seconds that only grow.
        most: lines in one second.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic, *, most: int = 1) -> None:
        self._logger = logger
        self._clock = clock
        self._most = most
        self._next = 0.0
        self._written = 0
        self._left_out = 0

    def info(self, text: str, *values: object) -> None:
        """Log a line at INFO, or leave it out and count it."""
        if (left_out := self.take()) is None:
            return
        if left_out:
            text, values = f"{text} (%d similar lines left out)", (*values, left_out)
        self._logger.info(text, *values)

    def take(self) -> int | None:
        """Return how many lines were left out if one may be written now; otherwise leave it out, and return ``None``."""
        now = self._clock()
        if now >= self._next:
            self._next, self._written = now + _INTERVAL_S, 0
        if self._written >= self._most:
            self._left_out += 1
            return None
        self._written += 1
        left_out, self._left_out = self._left_out, 0
        return left_out

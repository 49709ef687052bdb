"""A log for events that clients cause: at most one line a second, so that nobody can fill a disk from outside."""

import logging
import time
from collections.abc import Callable

_INTERVAL_S = 1.0


class SparseLog:
    """Writes at most one line a second to a logger. The next line says how many were left out before it.

    Args:
        logger: where the lines go, at INFO.
        clock: seconds that only grow.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._next = 0.0
        self._left_out = 0

    def info(self, text: str, *values: object) -> None:
        """Log a line, or leave it out and count it."""
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            return
        left_out, self._left_out, self._next = self._left_out, 0, now + _INTERVAL_S
        if left_out:
            text, values = f"{text} (%d similar lines left out)", (*values, left_out)
        self._logger.info(text, *values)

"""A log that a flood of requests cannot fill."""

import logging
import time
from collections.abc import Callable

LINES_PER_S = 10


class LimitedLog:
    """Writes at most ``LINES_PER_S`` lines a second, and then how many it left out."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._second = float("-inf")
        self._lines = 0

    def info(self, message: str, *values: object) -> None:
        """Write a line, unless this second has had enough."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        now = self._clock()
        if now - self._second >= 1.0:
            if self._lines > LINES_PER_S:
                self._logger.info("%d more lines like these were left out", self._lines - LINES_PER_S)
            self._second, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_PER_S:
            self._logger.info(message, *values)

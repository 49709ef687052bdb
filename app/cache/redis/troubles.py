"""Why a process cannot use Redis, for the log: each reason once, with what to do about it."""

import logging
import ssl
import time
from collections.abc import Callable

from redis.exceptions import AuthenticationError, NoPermissionError

_AGAIN_S = 600.0
_MOST = 32
_log = logging.getLogger(__name__)


class Troubles:
    """The reasons that a process has logged. All its links share them, so that each is logged once, and again in 10 minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def tell(self, error: Exception) -> None:
        """Log an error that kept Redis from being used, unless it was logged a short while ago."""
        now, reason = self._clock(), str(error)
        if now < self._told.get(reason, 0.0):
            return
        if len(self._told) >= _MOST:  # a reason may hold what differs each time
            self._told.clear()
        self._told[reason] = now + _AGAIN_S
        _log.warning("%s. Until it works, reads go to PostgreSQL and writes take longer. %s", reason.rstrip("."), _cure(error))


def _cure(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NoPermissionError):
            return "Give its user the commands and keys that docs/OPERATIONS.md lists; `larder doctor` names what is missing."
        if isinstance(cause, AuthenticationError):
            return "Correct the user or the password in the URL of Redis, and restart."
        if isinstance(cause, ssl.SSLError):
            return "Check the certificates; `larder doctor` says what is wrong."
        cause = cause.__cause__ or cause.__context__
    return "It is tried again all the time; if it does not come back, run `larder doctor`."

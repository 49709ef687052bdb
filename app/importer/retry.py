"""How long to wait before a request is tried again."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits that double up to a limit, with jitter. A ``Retry-After`` of the service is obeyed up to a limit.

    The jitter (down to half of the wait) prevents requests that failed together from being repeated together.
    """

    retries: int = 8
    first_wait_ms: int = 250
    longest_wait_ms: int = 10_000
    longest_retry_after_ms: int = 60_000
    random: Callable[[], float] = field(default=random.random)
    """Returns numbers from 0 to 1, evenly distributed."""

    def wait_ms(self, attempt: int, retry_after_ms: int | None) -> int:
        """Return the milliseconds to wait after the failed attempt number ``attempt`` (from 1)."""
        grown = min(self.longest_wait_ms, self.first_wait_ms * 2 ** (attempt - 1))
        share = self.random()
        if retry_after_ms is None:
            return int(grown * (0.5 + share / 2))
        # The service named the earliest moment, so here the jitter is added.
        return min(self.longest_retry_after_ms, retry_after_ms) + int(self.first_wait_ms * share)


def parse_retry_after(header: str | None, now: datetime | None = None) -> int | None:
    """Return the milliseconds of a ``Retry-After`` header (RFC 9110: seconds or a date), or ``None`` without a legal one."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        # Nine digits are more than any sensible wait; the policy caps it anyway.
        return int(text[:9]) * 1000
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int((moment - (now or datetime.now(UTC))).total_seconds() * 1000))

"""The rates and quotas of clients, in this process: token buckets."""

from dataclasses import dataclass

from app.access.errors import QuotaExceeded, RateLimited

NO_LIMIT = float("inf")
BURST_S = 2.0
"""A bucket holds the units of this many seconds, so that a client may send in bursts."""
SMALLEST_BUCKET = 50
"""Units that every bucket holds at least, so that a client with a low rate can send the most expensive request."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may use in each process; infinity is no limit."""

    rate_per_s: float = NO_LIMIT
    keys_per_day: float = NO_LIMIT
    """New idempotency keys."""
    products_per_day: float = NO_LIMIT
    """New products."""


class Quota:
    """What a client may use in a day. It becomes free again evenly over the day.

    It is charged after the use, because only then it is known. A client can exceed it by one request.
    """

    __slots__ = ("_free", "_noted_at", "_per_day", "what")

    def __init__(self, what: str, per_day: float) -> None:
        self.what = what
        self._per_day = self._free = per_day
        self._noted_at = 0.0

    def charge(self, amount: int, now: float) -> None:
        """Take an amount."""
        if self._per_day != NO_LIMIT:
            self._free = min(self._per_day, self._free + (now - self._noted_at) * self._per_day / DAY_S) - amount
            self._noted_at = now

    def wait_s(self, now: float) -> float:
        """Return how long it takes until something is free; 0 if it is."""
        if self._per_day == NO_LIMIT:
            return 0.0
        free = self._free + (now - self._noted_at) * self._per_day / DAY_S
        return 0.0 if free > 0 else (1.0 - free) * DAY_S / self._per_day


class Client:
    """One client in this process: its bucket, and the counts of its requests.

    Units flow into the bucket at the client's rate. A request takes as many as it costs, and is refused if there are fewer.
    """

    __slots__ = ("_capacity", "_filled_at", "_units", "admitted", "keys", "limited", "name", "products", "rate_per_s")

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.keys = Quota("new idempotency keys", limits.keys_per_day)
        self.products = Quota("new products", limits.products_per_day)
        self.admitted = 0
        """Requests admitted."""
        self.limited = 0
        """Requests refused because of the rate."""
        self._filled_at = float("-inf")
        self._units = self._capacity = 0.0
        self.rate_per_s = limits.rate_per_s
        self.set_rate(limits.rate_per_s)

    def set_rate(self, rate_per_s: float) -> None:
        """Set the rate in units per second; infinity is no limit."""
        self.rate_per_s = rate_per_s
        self._capacity = max(rate_per_s * BURST_S, SMALLEST_BUCKET)

    def try_take(self, cost: int, now: float) -> bool:
        """Take the units of one request, and return whether there were enough."""
        if self.rate_per_s != NO_LIMIT:
            units = self._units + (now - self._filled_at) * self.rate_per_s
            if units > self._capacity:  # noqa: PLR1730 - a call of min() would take longer than all the rest
                units = self._capacity
            self._filled_at = now
            if units < cost:
                self._units = units
                return False
            self._units = units - cost
        self.admitted += 1
        return True

    def take(self, cost: int, now: float) -> None:
        """Take the units of one request.

        Raises:
            RateLimited: there are too few.
        """
        if not self.try_take(cost, now):
            self.limited += 1
            raise RateLimited(self.name, self.rate_per_s, (cost - self._units) / self.rate_per_s)

    def check_quotas(self, now: float) -> None:
        """Check that a write may use the quotas.

        Raises:
            QuotaExceeded: one of them is used up.
        """
        for quota in (self.keys, self.products):
            if wait_s := quota.wait_s(now):
                self.limited += 1
                raise QuotaExceeded(self.name, quota.what, wait_s)

"""The rates of clients: a token bucket for each, in this process."""

from app.access.errors import RateLimited

NO_LIMIT = float("inf")
BURST_S = 2.0
"""A bucket holds the units of this many seconds, so that a client may send in bursts."""
LARGEST_COST = 50
"""Most units that one request costs. Every bucket holds at least as many."""


class Client:
    """One client in this process: its bucket, and the counts of its requests.

    Units flow into the bucket at the client's rate. A request takes as many as it costs, and is refused if there are fewer.
    """

    __slots__ = ("_capacity", "_filled_at", "_units", "admitted", "limited", "name", "rate_per_s")

    def __init__(self, name: str, rate_per_s: float) -> None:
        self.name = name
        self.admitted = 0
        """Requests admitted."""
        self.limited = 0
        """Requests refused because of the rate."""
        self._filled_at = float("-inf")
        self._units = self._capacity = 0.0
        self.rate_per_s = rate_per_s
        self.set_rate(rate_per_s)

    def set_rate(self, rate_per_s: float) -> None:
        """Set the rate in units per second; infinity is no limit."""
        self.rate_per_s = rate_per_s
        self._capacity = max(rate_per_s * BURST_S, LARGEST_COST)

    def try_take(self, cost: int, now: float) -> bool:
        """Take the units of one request, and return whether there were enough."""
        if self.rate_per_s != NO_LIMIT:
            self._units = min(self._capacity, self._units + (now - self._filled_at) * self.rate_per_s)
            self._filled_at = now
            if self._units < cost:
                return False
            self._units -= cost
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

"""What reservations promise, in plain Python: every hold ends at its moment, at once and for all of its lines.

The service closes an ended hold only when somebody needs its units. Its decisions must be those of this model all the same.
"""

from dataclasses import dataclass, field
from typing import Any

Lines = list[tuple[str, int]]


@dataclass(slots=True)
class Hold:
    """One hold: the units of each line that are open, sold and given back."""

    lines: Lines
    ends: float
    open: list[int]
    sold: list[int]
    released: list[int]
    expired: list[int]
    last: str = "sold"
    """How the last unit ended, if none is open."""


@dataclass(slots=True)
class Model:
    """Stocks and holds. A method returns what the service says: ``ok``, or the name of the refusal's class."""

    now: float = 0.0
    stock: dict[str, int | None] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)

    def held(self, product: str) -> int:
        """Units that are held."""
        return sum(n for hold in self.holds for (key, _), n in zip(hold.lines, hold.open, strict=True) if key == product)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for hold in self.holds:
            if hold.ends <= self.now:
                hold.last = "expired" if any(hold.open) else hold.last
                hold.expired = [e + n for e, n in zip(hold.expired, hold.open, strict=True)]
                hold.open = [0] * len(hold.open)

    def reserve(self, lines: Lines, life_s: int, replaced: int | None = None) -> str:
        given_up = None if replaced is None else self.holds[replaced]
        if given_up and not any(given_up.open) and given_up.last == "sold":
            return "ReservationClosed"
        if any(self.stock.get(key) is None for key, _ in lines):
            return "ProductsMissing"
        own = [(key, n) for (key, _), n in zip(given_up.lines, given_up.open, strict=True)] if given_up else []
        if any(self._stock(key) - self.held(key) + _sum(own, key) < _sum(lines, key) for key, _ in lines):
            return "InsufficientStock"
        if replaced is not None and own and any(n for _, n in own):
            self.release(replaced, None)
        none = [0] * len(lines)
        self.holds.append(Hold(lines, self.now + life_s, [n for _, n in lines], [*none], [*none], [*none]))
        return "ok"

    def extend(self, number: int, life_s: int) -> str:
        hold = self.holds[number]
        if refusal := _not_open(hold):
            return refusal
        hold.ends = max(hold.ends, self.now + life_s)
        return "ok"

    def commit(self, number: int, parts: dict[int, int] | None, *, give_rest: bool) -> str:
        hold = self.holds[number]
        if refusal := _not_open(hold):
            return refusal
        units = parts or dict(enumerate(hold.open))
        if any(n > hold.open[line] for line, n in units.items()):
            return "NotHeld"
        sold = [(hold.lines[line][0], n) for line, n in units.items()]
        if any(self._stock(key) < _sum(sold, key) for key, _ in sold):
            return "InsufficientStock"
        hold.last = "sold"
        for line, n in units.items():
            hold.open[line] -= n
            hold.sold[line] += n
            self.stock[hold.lines[line][0]] = self._stock(hold.lines[line][0]) - n
        if give_rest and parts:
            hold.released = [r + n for r, n in zip(hold.released, hold.open, strict=True)]
            hold.open = [0] * len(hold.open)
        return "ok"

    def release(self, number: int, parts: dict[int, int] | None) -> str:
        hold = self.holds[number]
        if not any(hold.open):
            return "ReservationClosed" if hold.last == "sold" else "ok"
        units = parts or dict(enumerate(hold.open))
        if any(n > hold.open[line] for line, n in units.items()):
            return "NotHeld"
        for line, n in units.items():
            hold.open[line] -= n
            hold.released[line] += n
        hold.last = "released"
        return "ok"

    def adjust(self, product: str, delta: int, *, take_reserved: bool) -> str:
        if self.stock.get(product) is None:
            return "ProductsMissing"
        within = self._stock(product) - (0 if take_reserved else self.held(product))
        if delta < 0 and within + delta < 0:
            return "InsufficientStock"
        self.stock[product] = self._stock(product) + delta
        return "ok"

    def count(self, product: str, stock: int) -> str:
        if self.stock.get(product) is None:
            return "ProductsMissing"
        self.stock[product] = stock
        return "ok"

    def create(self, product: str, stock: int) -> str:
        if self.stock.get(product) is not None:
            return "AlreadyExists"
        self.stock[product] = stock
        return "ok"

    def delete(self, product: str) -> str:
        if self.stock.get(product) is None:
            return "ProductsMissing"
        if self.held(product):
            return "ProductReserved"
        self.stock[product] = None
        return "ok"

    def _stock(self, product: str) -> int:
        found: Any = self.stock.get(product)
        assert found is not None, product
        return int(found)


def _sum(lines: Lines, product: str) -> int:
    return sum(n for key, n in lines if key == product)


def _not_open(hold: Hold) -> str:
    if any(hold.open):
        return ""
    return "ReservationExpired" if hold.last == "expired" else "ReservationClosed"

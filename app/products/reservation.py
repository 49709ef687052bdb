"""A reservation, which holds units of products for somebody until it ends. This module does no I/O."""

import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from app.products.values import value_class

MAX_LIFE_S = 2_592_000
"""The longest life of a reservation from its creation, in seconds: 30 days."""


RESERVATION_ID_PATTERN = "^[0-9a-f]{32}$"
_ID = re.compile(RESERVATION_ID_PATTERN)


class Status(StrEnum):
    """What became of a reservation: ``held`` while a unit is open, and then how the last one ended.

    It is ``expired`` as soon as any of its lines was given back by its end, even if another line still waits for that.
    """

    HELD = "held"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"


@value_class(frozen=True, slots=True)
class RequestedLine:
    """One line of a reservation to make."""

    product_id: str
    quantity: int


@value_class(frozen=True, slots=True)
class Part:
    """Units of one line, which is named by its number, to commit or to release."""

    line: int
    quantity: int


@value_class(frozen=True, slots=True)
class HeldLine:
    """One line of a reservation. Its product and quantity never change, and its counters only grow."""

    product_id: str
    quantity: int
    committed: int = 0
    released: int = 0
    expired: int = 0

    @property
    def open(self) -> int:
        """Units that are still held."""
        return self.quantity - self.committed - self.released - self.expired


def any_open(lines: Sequence[HeldLine]) -> bool:
    """Return whether a unit of these lines is still held."""
    for line in lines:  # noqa: SIM110 - most reservations have one line, for which ``any`` would first make a generator
        if line.open:
            return True
    return False


@value_class(frozen=True, slots=True)
class Reservation:
    """One version of a reservation. Its lines are numbered from 0."""

    id: str
    reference: str | None
    status: Status
    expires_at: datetime
    version: int
    created_at: datetime
    updated_at: datetime
    lines: Sequence[HeldLine]

    @property
    def is_open(self) -> bool:
        """Whether a unit is still held."""
        return any_open(self.lines)

    @property
    def product_ids(self) -> list[str]:
        """The products of its lines, each once."""
        return list(dict.fromkeys([line.product_id for line in self.lines]))

    def after(self, lines: Sequence[HeldLine], status: Status, moment: datetime) -> "Reservation":
        """Return the next version of the reservation. It is written out because ``replace`` is slow."""
        return Reservation(self.id, self.reference, status, self.expires_at, self.version + 1, self.created_at, moment, lines)

    def is_over(self, moment: datetime) -> bool:
        """Return whether its end has come: by time, or because a line was given back by it before."""
        return (moment >= self.expires_at and self.is_open) or self.status is Status.EXPIRED


@value_class(frozen=True, slots=True)
class EndedLine:
    """An open line, of any reservation, whose end has come. Whoever needs its units gives them back."""

    reservation_id: str
    line: int
    open: int
    expires_at: datetime
    reference: str | None


@value_class(frozen=True, slots=True)
class EndedLines:
    """The open lines of one product whose end has come, the oldest first."""

    lines: Sequence[EndedLine]
    complete: bool
    """Whether these are all."""


@value_class(frozen=True, slots=True)
class HeldUnits:
    """What reservations hold, of all products together, as one look found it. Several processes see the same units."""

    units: int = 0
    over: int = 0
    """Those of ended reservations, which nobody has needed yet."""
    oldest_s: float = 0.0
    """Seconds since the oldest of these reservations ended."""

    def __add__(self, other: "HeldUnits") -> "HeldUnits":
        return HeldUnits(max(self.units, other.units), max(self.over, other.over), max(self.oldest_s, other.oldest_s))


@value_class(frozen=True, slots=True)
class ReservationPosition:
    """Where a page of reservations ended."""

    created_at: datetime
    id: str


def is_reservation_id(text: str) -> bool:
    """Return whether ``text`` may be a reservation's id. Only the service makes them."""
    return _ID.fullmatch(text) is not None

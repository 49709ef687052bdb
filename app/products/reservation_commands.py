"""The commands that make, extend, commit and release reservations. They are pure code, as those of ``commands``.

A command gets the locked rows, its reservation, and the moment of the decision. Before that, a reservation whose end has come
was closed, so that a command finds it expired (``Shelf``).
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from typing_extensions import override

from app.buckets import bucket_of
from app.products.commands import Change, Command, Effect, Entry, shortage_of
from app.products.errors import (
    Excess,
    InsufficientStock,
    LifeTooLong,
    NotHeld,
    ProductsMissing,
    ReservationChanged,
    ReservationClosed,
    ReservationExpired,
    ReservationMissing,
    StockLimit,
)
from app.products.product import ALWAYS, MAX_INTEGER, Precondition, Product, Reason, Row, new_product_id
from app.products.reservation import MAX_LIFE_S, HeldLine, Part, RequestedLine, Reservation, Status, any_open
from app.products.values import value_class


class Rest(StrEnum):
    """What becomes of the units that a commit does not name."""

    KEEP = "keep"
    RELEASE = "release"


@value_class(frozen=True, slots=True)
class Use:
    """Units of one line that a command takes out of it, by the way in which they end."""

    committed: int = 0
    released: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        """Units that are no longer held."""
        return self.committed + self.released + self.expired


UNUSED = Use()


@value_class(frozen=True, slots=True)
class ReservationOutcome:
    """The reservation after a command, and the effects on its products. It is the same object if nothing had to be changed."""

    reservation: Reservation
    effects: Sequence[Effect] = ()
    replaced: Reservation | None = None
    """The reservation that this one replaces, after its release."""


class ReservationCommand(Command):
    """One request to make or change a reservation."""

    def __init__(self, keys: Sequence[str], weight: int, reservation_id: str | None = None) -> None:
        super().__init__(keys, weight, () if reservation_id is None else (reservation_id,))
        self.reservation_id = reservation_id
        """The reservation that must exist."""

    @override
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        raise NotImplementedError("a command on a reservation needs the moment: use decide_at")

    @abstractmethod
    def decide_at(self, moment: datetime, rows: Mapping[str, Row], reservation: Reservation | None) -> ReservationOutcome:
        """Return the reservation and the effects, one for each product changed. If it raises ``Refused``, nothing changes."""


class Reserve(ReservationCommand):
    """Hold units of products: all lines or none. A product may have several lines; their sum is checked.

    With ``replaces``, what that reservation still holds is given back in the same decision, and counts as free for this one.
    """

    def __init__(
        self, lines: Sequence[RequestedLine], life_s: int, reference: str | None = None, replaces: str | None = None
    ) -> None:
        self._wanted: dict[str, int] = {}
        """The units of each product."""
        for line in lines:
            self._wanted[line.product_id] = self._wanted.get(line.product_id, 0) + line.quantity
        super().__init__(list(self._wanted), len(lines) + 1, replaces)
        self.id = new_product_id(bucket_of(lines[0].product_id))
        """The id of the new reservation, which is where its first product is."""
        self._lines = lines
        self._life_s = life_s
        self._reference = reference

    @override
    def decide_at(self, moment: datetime, rows: Mapping[str, Row], reservation: Reservation | None) -> ReservationOutcome:
        entries: defaultdict[str, list[Entry]] = defaultdict(list)
        replaced = self._give_up(reservation, moment, entries)
        own = {key: -sum(entry.reserved_delta for entry in listed) for key, listed in entries.items()} if entries else {}
        products = [row for key in self.keys if isinstance(row := rows[key], Product)]
        if len(products) < len(self.keys):
            raise ProductsMissing([key for key in self.keys if not isinstance(rows[key], Product)])
        short = [
            shortage_of(product, within, self._wanted[product.id])
            for product in products
            if (within := product.free + own.get(product.id, 0)) < self._wanted[product.id]
        ]
        if short:
            raise InsufficientStock(short, own)
        for number, line in enumerate(self._lines):
            entries[line.product_id].append(Entry(number, 0, Reason.HOLD, self._reference, line.quantity, self.id))
        lines = [HeldLine(line.product_id, line.quantity) for line in self._lines]
        ends = moment + timedelta(seconds=self._life_s)
        made = Reservation(self.id, self._reference, Status.HELD, ends, 1, moment, moment, lines)
        return ReservationOutcome(made, _effects(entries, rows), replaced)

    def _give_up(
        self, reservation: Reservation | None, moment: datetime, entries: Mapping[str, list[Entry]]
    ) -> Reservation | None:
        """Return the replaced reservation after its release, which is recorded in ``entries``; ``None`` if nothing changes."""
        if self.reservation_id is None:
            return None
        if reservation is None:
            raise ReservationMissing(self.reservation_id)
        if not reservation.is_open:
            if reservation.status is Status.COMMITTED:
                raise ReservationClosed(reservation.id, reservation.status, reservation.version)
            return None
        lines = list(reservation.lines)
        for number, line in enumerate(lines):
            if line.open:
                place = len(self._lines) + number  # after the lines of the new reservation
                entry = Entry(place, 0, Reason.RELEASE, reservation.reference, -line.open, reservation.id)
                entries[line.product_id].append(entry)
                lines[number] = replace(line, released=line.released + line.open)
        return reservation.after(lines, Status.RELEASED, moment)


class NamedCommand(ReservationCommand):
    """A request about a reservation that exists."""

    def __init__(self, reservation_id: str, condition: Precondition) -> None:
        super().__init__((), 2, reservation_id)
        self._condition = condition

    @override
    def decide_at(self, moment: datetime, rows: Mapping[str, Row], reservation: Reservation | None) -> ReservationOutcome:
        if reservation is None:
            raise ReservationMissing(self.reservation_id or "")
        condition = self._condition
        if condition.versions is not None and str(reservation.version) not in condition.versions:
            raise ReservationChanged(reservation.id, reservation.version)
        return self._decide_on(moment, rows, reservation)

    @abstractmethod
    def _decide_on(self, moment: datetime, rows: Mapping[str, Row], reservation: Reservation) -> ReservationOutcome:
        """Decide about the reservation, which is there and at a version that the request allows."""


class Extend(NamedCommand):
    """Let a reservation end later. It is left as it is if it would end earlier."""

    def __init__(self, reservation_id: str, life_s: int, condition: Precondition = ALWAYS) -> None:
        super().__init__(reservation_id, condition)
        self._life_s = life_s

    @override
    def _decide_on(self, moment: datetime, rows: Mapping[str, Row], reservation: Reservation) -> ReservationOutcome:
        _check_open(reservation)
        ends = moment + timedelta(seconds=self._life_s)
        if ends <= reservation.expires_at:
            return ReservationOutcome(reservation)
        if ends > reservation.created_at + timedelta(seconds=MAX_LIFE_S):
            raise LifeTooLong(f"reservation {reservation.id} would live longer than {MAX_LIFE_S} s")
        return ReservationOutcome(replace(reservation, expires_at=ends, version=reservation.version + 1, updated_at=moment))


class Commit(NamedCommand):
    """Turn held units into a sale: all that are open, or some lines, with a word about the rest."""

    def __init__(
        self,
        reservation_id: str,
        parts: Sequence[Part] | None = None,
        rest: Rest = Rest.KEEP,
        reference: str | None = None,
        condition: Precondition = ALWAYS,
    ) -> None:
        super().__init__(reservation_id, condition)
        self._parts = parts
        self._rest = rest
        self._reference = reference

    @override
    def _decide_on(self, moment: datetime, rows: Mapping[str, Row], reservation: Reservation) -> ReservationOutcome:
        _check_open(reservation)
        sold = _units(reservation, self._parts)
        _check_stock(rows, reservation, sold)
        names_rest = self._parts is not None and self._rest is Rest.RELEASE
        uses = {}
        for number, line in enumerate(reservation.lines):
            units = sold.get(number, 0)
            uses[number] = Use(units, line.open - units if names_rest else 0)
        reference = self._reference or reservation.reference
        return use_lines(reservation, uses, rows, moment, ending=Status.COMMITTED, reference=reference)


class Release(NamedCommand):
    """Give held units back: all that are open, or some. A reservation that was released or expired is left as it is."""

    def __init__(self, reservation_id: str, parts: Sequence[Part] | None = None, condition: Precondition = ALWAYS) -> None:
        super().__init__(reservation_id, condition)
        self._parts = parts

    @override
    def _decide_on(self, moment: datetime, rows: Mapping[str, Row], reservation: Reservation) -> ReservationOutcome:
        if reservation.status in (Status.RELEASED, Status.EXPIRED):
            return ReservationOutcome(reservation)
        _check_open(reservation)
        uses = {number: Use(released=units) for number, units in _units(reservation, self._parts).items()}
        return use_lines(reservation, uses, rows, moment, ending=Status.RELEASED, reference=reservation.reference)


class Tidy(Command):
    """Give back the units of ended reservations that nobody has needed yet. Those whose rows others hold are left out."""

    def __init__(self, reservation_ids: Sequence[str]) -> None:
        super().__init__((), len(reservation_ids), reservation_ids)

    @override
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        return ()


def use_lines(
    reservation: Reservation,
    uses: Mapping[int, Use],
    rows: Mapping[str, Row],
    moment: datetime,
    *,
    ending: Status,
    reference: str | None,
) -> ReservationOutcome:
    """Take units out of a reservation's lines, and out of their products."""
    entries: defaultdict[str, list[Entry]] = defaultdict(list)
    lines = list(reservation.lines)
    for number, use in uses.items():
        line = lines[number]
        committed, released, expired = line.committed + use.committed, line.released + use.released, line.expired + use.expired
        lines[number] = HeldLine(line.product_id, line.quantity, committed, released, expired)
        listed = entries[line.product_id]
        if use.committed:
            listed.append(Entry(len(listed), -use.committed, Reason.SALE, reference, -use.committed, reservation.id))
        if use.released:
            listed.append(Entry(len(listed), 0, Reason.RELEASE, reference, -use.released, reservation.id))
        if use.expired:
            listed.append(Entry(len(listed), 0, Reason.EXPIRY, reference, -use.expired, reservation.id))
    status = ending if not any_open(lines) or ending is Status.EXPIRED else reservation.status
    return ReservationOutcome(reservation.after(lines, status, moment), _effects(entries, rows))


def _units(reservation: Reservation, parts: Sequence[Part] | None) -> dict[int, int]:
    """Return the units of each line that the request names; without ``parts`` all that are open."""
    if parts is None:
        return {number: line.open for number, line in enumerate(reservation.lines) if line.open}
    units: defaultdict[int, int] = defaultdict(int)
    for part in parts:
        units[part.line] += part.quantity
    left = {number: reservation.lines[number].open if number < len(reservation.lines) else 0 for number in units}
    if excess := [Excess(number, left[number], units[number]) for number in units if units[number] > left[number]]:
        raise NotHeld(reservation.id, excess)
    return units


def _check_open(reservation: Reservation) -> None:
    if reservation.status is Status.EXPIRED:
        raise ReservationExpired(reservation.id, reservation.expires_at, reservation.version)
    if not reservation.is_open:
        raise ReservationClosed(reservation.id, reservation.status, reservation.version)


def _check_stock(rows: Mapping[str, Row], reservation: Reservation, sold: Mapping[int, int]) -> None:
    """Refuse to sell held units that a count has found to be missing."""
    wanted: dict[str, int] = {}
    for number, units in sold.items():
        product_id = reservation.lines[number].product_id
        wanted[product_id] = wanted.get(product_id, 0) + units
    short = [
        shortage_of(row, row.stock, units)
        for product_id, units in wanted.items()
        if isinstance(row := rows.get(product_id), Product) and row.stock < units
    ]
    if short:
        raise InsufficientStock(short)


def _effects(entries: Mapping[str, Sequence[Entry]], rows: Mapping[str, Row]) -> list[Effect]:
    """Return the effects on the products that have entries, which say how their units change."""
    effects = []
    for product_id, listed in entries.items():
        row = rows.get(product_id)
        if not listed or not isinstance(row, Product):
            continue
        stock, reserved = row.stock, row.reserved or 0
        for entry in listed:
            stock += entry.delta
            reserved += entry.reserved_delta
        if reserved > MAX_INTEGER:
            raise StockLimit((product_id,))
        effects.append(Effect(row.with_units(stock, reserved), Change.UPDATED, listed))
    return effects

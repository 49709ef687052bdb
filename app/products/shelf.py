"""The rows and reservations of one transaction, on which its commands are decided one after another. It does no I/O.

Whether a reservation is over is decided by one moment, which the transaction reads after all its locks are granted. For each
product it is raised to the newest moment that the product's row knows, so that a clock that steps back revives nothing.

A reservation that a command names is closed first if it is over, whatever becomes of the command. Units of other ended
reservations are given back only when a command lacks them. The lines that hold them are then read first: ``missing`` has the
products, and all commands are decided again on a new shelf.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from app.products.commands import Change, Command, Effect, Entry
from app.products.errors import NotEnabled, TooManyEnded, UnitsNeeded
from app.products.product import Product, Reason, Row
from app.products.reservation import EndedLine, EndedLines, Reservation, Status
from app.products.reservation_commands import UNUSED, ReservationCommand, Reserve, Tidy, Use, use_lines

MAX_ENDED = 2_000
"""Most ended lines of a product that one transaction reads in order to give their units back."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Facts:
    """What a transaction has read, under its locks."""

    rows: Mapping[str, Row]
    swept: Mapping[str, datetime] = field(default_factory=dict)
    """For each product, the moment up to which no ended line is open."""
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    """The reservations that the commands name."""
    moment: datetime | None = None
    """When the decisions are made, on the database's clock; ``None`` while no command has needed it."""
    enabled: bool = True
    """Whether there are reservations in this database."""
    ended: dict[str, EndedLines] = field(default_factory=dict)
    """The ended lines of the products that lacked units."""
    newest: Mapping[str, int] = field(default_factory=dict)
    """The newest versions in the ledger, if they were read. A product that was restored without its ledger is behind it."""

    def moment_of(self, product_ids: Collection[str]) -> datetime:
        """Return the moment of a decision about these products."""
        latest = self.moment or _LONG_AGO
        for product_id in product_ids:
            row = self.rows.get(product_id)
            if isinstance(row, Product) and row.updated_at > latest:
                latest = row.updated_at
            if product_id in self.swept and self.swept[product_id] > latest:
                latest = self.swept[product_id]
        return latest


@dataclass(slots=True)
class ReservationChange:
    """What happens to a stored reservation."""

    rise: int
    """By how much its version rises."""
    status: Status | None
    """Its status, or ``None`` to leave it."""
    moment: datetime
    expires_at: datetime | None = None
    """Its new end, or ``None`` to leave it."""


class Shelf:
    """The rows and reservations as the commands so far have left them."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.rows: dict[str, Row] = dict(facts.rows)
        self.closings: list[Effect] = []
        """What was given back because its end had come. Each is a version of its own, before that of the command."""
        self.new: list[Reservation] = []
        self.uses: dict[tuple[str, int], Use] = {}
        """The units taken out of each stored line, by reservation and number."""
        self.changes: dict[str, ReservationChange] = {}
        self.swept: dict[str, datetime] = {}
        """The products whose mark of ended lines rises."""
        self.missing: dict[str, int] = {}
        """The products whose ended lines must be read, because a command lacks units. All decisions are then void."""
        self._reservations = dict(facts.reservations)
        self._position: defaultdict[str, int] = defaultdict(int)

    @property
    def others(self) -> Sequence[str]:
        """The reservations to change that no command names, so that not all of their products are locked."""
        return sorted(self.changes.keys() - self._facts.reservations.keys())

    def products_of(self, command: Command) -> Sequence[str]:
        """Return the products of a command, those of the reservations that it names included."""
        if not command.reservation_ids:
            return command.keys
        found = dict.fromkeys(command.keys)
        for reservation_id in command.reservation_ids:
            if reservation := self._facts.reservations.get(reservation_id):
                for line in reservation.lines:
                    found[line.product_id] = None
        return list(found)

    def changeable_by(self, command: Command) -> Sequence[str]:
        """Return the products that a command may change, and the reservations that it names. Closed lines stay as they are."""
        named = command.reservation_ids
        reservations = (self._facts.reservations.get(reservation_id) for reservation_id in named)
        lines = (line.product_id for found in reservations if found for line in found.lines if line.open)
        return [*command.keys, *named, *lines]

    def decide(
        self, command: Command, product_ids: Collection[str], held: Collection[str] = ()
    ) -> tuple[Sequence[Effect], Reservation | None]:
        """Carry out a command; return its effects, and its reservation if it is about one.

        Args:
            command: what to do.
            product_ids: its products, as ``products_of`` returned them.
            held: products whose rows somebody else holds. Only ``Tidy`` may come with any.

        Raises ``Refused``; then only ``closings`` may have grown.
        """
        if isinstance(command, Tidy):
            self._tidy(command, held)
            return (), None
        if isinstance(command, ReservationCommand):
            if not self._facts.enabled:
                raise NotEnabled("there are no reservations before the migration is finished")
            if command.reservation_id is not None:
                self._close_if_over(command.reservation_id)
        while True:
            try:
                return self._attempt(command, product_ids)
            except UnitsNeeded as lack:
                if not self._give_back(lack):
                    raise

    def _attempt(self, command: Command, product_ids: Collection[str]) -> tuple[Sequence[Effect], Reservation | None]:
        if not isinstance(command, ReservationCommand):
            return self._put(command.decide(self.rows)), None
        before = self._reservations.get(command.reservation_id or "")
        moment = self._facts.moment_of(product_ids)
        decided = command.decide_at(moment if before is None else max(moment, before.updated_at), self.rows, before)
        if isinstance(command, Reserve):
            self.new.append(decided.reservation)
        after = decided.replaced if isinstance(command, Reserve) else decided.reservation
        if before is not None and after is not None and after is not before:
            self._change(before, after)
        return self._put(decided.effects), decided.reservation

    def _put(self, effects: Sequence[Effect]) -> Sequence[Effect]:
        raised = [self._above_the_ledger(effect) for effect in effects] if self._facts.newest else effects
        for effect in raised:
            self.rows[effect.row.id] = effect.row  # one that is unchanged is there already
        return raised

    def _above_the_ledger(self, effect: Effect) -> Effect:
        """Raise the effect's version above the ledger's."""
        newest = self._facts.newest.get(effect.row.id, 0)
        if effect.change is Change.UNCHANGED or effect.row.version > newest:
            return effect
        return replace(effect, row=replace(effect.row, version=newest + 1))

    # ------------------------------------------------- reservations

    def _change(self, before: Reservation, after: Reservation) -> None:
        self._reservations[after.id] = after
        for number, (old, new) in enumerate(zip(before.lines, after.lines, strict=True)):
            if new is not old:
                self._use(
                    after.id, number, new.committed - old.committed, new.released - old.released, new.expired - old.expired
                )
        stored = self._facts.reservations[after.id]
        ends = after.expires_at if after.expires_at != stored.expires_at else None
        self.changes[after.id] = ReservationChange(after.version - stored.version, after.status, after.updated_at, ends)

    def _use(self, reservation_id: str, line: int, committed: int = 0, released: int = 0, expired: int = 0) -> None:
        use = self.uses.get((reservation_id, line), UNUSED)
        self.uses[reservation_id, line] = Use(use.committed + committed, use.released + released, use.expired + expired)

    def _close_if_over(self, reservation_id: str) -> None:
        """Give the open units of an ended reservation back, by versions of their own."""
        reservation = self._reservations.get(reservation_id)
        if reservation is None:
            return
        moment = max(self._facts.moment_of([line.product_id for line in reservation.lines]), reservation.updated_at)
        if not reservation.is_over(moment) or not reservation.is_open:
            return
        uses = {number: Use(expired=line.open) for number, line in enumerate(reservation.lines) if line.open}
        decided = use_lines(reservation, uses, self.rows, moment, ending=Status.EXPIRED, reference=reservation.reference)
        self._change(reservation, decided.reservation)
        self.closings += self._put(decided.effects)

    def _tidy(self, command: Tidy, held: Collection[str]) -> None:
        for reservation_id in command.reservation_ids:
            reservation = self._facts.reservations.get(reservation_id)
            if reservation is not None and not any(key in held for key in reservation.product_ids):
                self._close_if_over(reservation_id)

    # ------------------------------------------ units of other reservations

    def _give_back(self, lack: UnitsNeeded) -> bool:
        """Give back units of ended reservations; return whether there were any, so that the command is tried again."""
        products = [row for key in lack.free if isinstance(row := self.rows[key], Product)]
        if any(product.stock < lack.free[product.id] for product in products):
            return False
        given = False
        for product in products:
            if not product.reserved or product.free >= lack.free[product.id]:
                continue
            if product.id not in self._facts.ended:
                self.missing[product.id] = lack.free[product.id]
            elif self._close_lines(product, lack.free[product.id]):
                given = True
            elif not self._facts.ended[product.id].complete:
                raise TooManyEnded(f"more than {MAX_ENDED} ended lines hold units of product {product.id}") from lack
        return given

    def _close_lines(self, product: Product, free: int) -> bool:
        """Close ended lines of a product, the oldest first, until so many units are free or no line is left."""
        lines = self._facts.ended[product.id].lines
        entries: list[Entry] = []
        units = 0
        while self._position[product.id] < len(lines) and product.free + units < free:
            line = lines[self._position[product.id]]
            self._position[product.id] += 1
            if taken := self._expire(line, self._facts.moment_of((product.id,))):
                entries.append(Entry(len(entries), 0, Reason.EXPIRY, line.reference, -taken, line.reservation_id))
                units += taken
        self._sweep(product.id)
        if not units:
            return False
        after = product.with_units(product.stock, (product.reserved or 0) - units)
        self.closings += self._put([Effect(after, Change.UPDATED, entries)])
        return True

    def _expire(self, line: EndedLine, moment: datetime) -> int:
        """Close one line, and mark its reservation; return the units that it still held."""
        units = line.open - self.uses.get((line.reservation_id, line.line), UNUSED).total
        if not units:
            return 0
        if before := self._reservations.get(line.reservation_id):
            lines = list(before.lines)
            lines[line.line] = replace(lines[line.line], expired=lines[line.line].expired + units)
            self._change(before, before.after(lines, Status.EXPIRED, max(moment, before.updated_at)))
        else:
            self._use(line.reservation_id, line.line, expired=units)
            self.changes[line.reservation_id] = ReservationChange(1, Status.EXPIRED, moment)
        return units

    def _sweep(self, product_id: str) -> None:
        """Raise the mark up to which no ended line is open: never beyond the first one that stays open."""
        ended, position = self._facts.ended[product_id], self._position[product_id]
        if position == len(ended.lines) and ended.complete:
            self.swept[product_id] = self._facts.moment_of((product_id,))
            return
        following = ended.lines[position if position < len(ended.lines) else -1].expires_at
        if closed := [line.expires_at for line in ended.lines[:position] if line.expires_at < following]:
            self.swept[product_id] = closed[-1]

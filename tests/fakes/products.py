"""Products in memory: what ``ProductTransactions`` and ``ProductSource`` do, as far as one transaction after another goes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from typing_extensions import override

from app.cache.ports import State
from app.products.commands import Change, Effect
from app.products.decision import Decision, Denied, Done, Postponed, Repeated
from app.products.errors import KeyReused, Refused, ReservationMissing
from app.products.idempotency import StoredAnswer, WriteRequest
from app.products.product import Gone, LedgerPosition, Movement, Position, Product, Row
from app.products.reservation import EndedLine, EndedLines, HeldUnits, Reservation, ReservationPosition, Status
from app.products.reservation_source import ReservationSource
from app.products.shelf import MAX_ENDED, Facts, Shelf
from app.products.source import ProductSource, state_of
from app.products.transaction import Committed, Patience
from app.products.transactions import ProductTransactions

EPOCH = "0123456789abcdef"
INCARNATION = "1" * 16


class MemoryProducts(ProductSource):
    """The tables, and what reads of them find."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.ledger: list[Movement] = []
        self.answers: dict[tuple[str, str], StoredAnswer] = {}
        self.holds = MemoryReservations(lambda: self.moment or self.now)
        self.reservations = self.holds
        self.now = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
        """The time of the newest transaction."""
        self.swept: dict[str, datetime] = {}
        """For each product, the moment up to which no ended line is open."""
        self.moment: datetime | None = None
        """The moment of decisions on reservations, where a test sets it; otherwise it is the transaction's time."""

    def row(self, product_id: str) -> Row:
        """The row as it stands; an id without one is gone, at version 0."""
        return self.rows.get(product_id, Gone(product_id, 0))

    @override
    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        await asyncio.sleep(0)
        return {key: state_of(self.row(key), EPOCH) for key in keys}

    @override
    async def page(
        self,
        *,
        limit: int,
        after: Position | None,
        prefix: str,
        below_reorder_point: bool = False,
        uncovered: bool = False,
    ) -> list[tuple[Product, Position]]:
        products = [row for row in self.rows.values() if isinstance(row, Product)]
        if prefix:
            products = [p for p in products if p.name.lower().startswith(prefix.lower())]
        if below_reorder_point:
            products = [p for p in products if p.stock < p.reorder_point]
        if uncovered:
            products = [p for p in products if p.stock < (p.reserved or 0)]
        by_name = prefix and not below_reorder_point and not uncovered
        placed = sorted(((p.name.lower() if by_name else "", p.id), p) for p in products)
        begin = (after.name_key, after.id) if after else ("", "")
        return [(product, Position(place[1], place[0])) for place, product in placed if place > begin][:limit]

    @override
    async def movements(self, product_id: str, *, limit: int, after: LedgerPosition | None) -> list[Movement]:
        found = [movement for movement in self.ledger if movement.product_id == product_id]
        return _newest(found, limit, after, lambda place: (place.version, place.line))

    @override
    async def movements_by_reference(self, reference: str, *, limit: int, after: LedgerPosition | None) -> list[Movement]:
        found = [movement for movement in self.ledger if movement.reference == reference]
        return _newest(found, limit, after, lambda place: (place.created_at, place.product_id, place.version, place.line))

    @override
    async def latest_movements(self, *, limit: int) -> list[Movement]:
        return sorted(self.ledger, key=lambda entry: (entry.created_at, entry.product_id, entry.version), reverse=True)[:limit]

    @override
    async def has_ledger(self, product_id: str) -> bool:
        return any(movement.product_id == product_id for movement in self.ledger)


class MemoryReservations(ReservationSource):
    """The reservations, and what reads of them find."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.rows: dict[str, Reservation] = {}
        self._clock = clock

    def ended_lines(self, product_id: str, swept: datetime | None, moment: datetime, limit: int) -> EndedLines:
        """The open lines of a product whose end has come, the oldest first. Up to ``swept`` none is looked for."""
        lines = [
            EndedLine(held.id, number, line.open, held.expires_at, held.reference)
            for held in self.rows.values()
            for number, line in enumerate(held.lines)
            if line.product_id == product_id and line.open and held.expires_at <= moment
            if swept is None or held.expires_at > swept
        ]
        lines.sort(key=lambda line: (line.expires_at, line.reservation_id, line.line))
        return EndedLines(lines[:limit], complete=len(lines) <= limit)

    def apply(self, shelf: Shelf) -> None:
        """Write what a transaction has decided."""
        self.rows |= {new.id: new for new in shelf.new}
        for (key, number), use in shelf.uses.items():
            lines = list(self.rows[key].lines)
            line = lines[number]
            lines[number] = replace(
                line,
                committed=line.committed + use.committed,
                released=line.released + use.released,
                expired=line.expired + use.expired,
            )
            self.rows[key] = replace(self.rows[key], lines=lines)
        for key, change in shelf.changes.items():
            held = self.rows[key]
            self.rows[key] = replace(
                held,
                version=held.version + change.rise,
                status=change.status or held.status,
                expires_at=change.expires_at or held.expires_at,
                updated_at=max(change.moment, held.updated_at),
            )

    @override
    async def get(self, reservation_id: str) -> Reservation:
        if reservation_id not in self.rows:
            raise ReservationMissing(reservation_id)
        return self.rows[reservation_id]

    @override
    async def by_reference(
        self, reference: str, *, status: Status | None, limit: int, after: ReservationPosition | None
    ) -> list[Reservation]:
        return self._newest([held for held in self.rows.values() if held.reference == reference], status, limit, after)

    @override
    async def by_product(
        self, product_id: str, *, status: Status | None, limit: int, after: ReservationPosition | None
    ) -> list[Reservation]:
        holding = [h for h in self.rows.values() if any(x.open and x.product_id == product_id for x in h.lines)]
        return self._newest(holding, status, limit, after)

    @override
    async def held(self) -> HeldUnits:
        now = self._clock()
        units = {held.id: sum(line.open for line in held.lines) for held in self.rows.values()}
        over = [held for held in self.rows.values() if units[held.id] and held.expires_at <= now]
        oldest_s = max(((now - held.expires_at).total_seconds() for held in over), default=0.0)
        return HeldUnits(sum(units.values()), sum(units[held.id] for held in over), oldest_s)

    def _newest(
        self, found: list[Reservation], status: Status | None, limit: int, after: ReservationPosition | None
    ) -> list[Reservation]:
        ordered = sorted(found, key=lambda held: (held.created_at, held.id), reverse=True)
        return [
            held
            for held in ordered
            if status in (None, held.status) and (after is None or (held.created_at, held.id) < (after.created_at, after.id))
        ][:limit]


class MemoryTransactions(ProductTransactions):
    """Transactions on these tables, one after another: nobody else ever holds a row."""

    def __init__(self, products: MemoryProducts, shelf: type[Shelf] = Shelf, limit: int = MAX_ENDED) -> None:
        self._products = products
        self._shelf = shelf
        self.limit = limit
        """Most ended lines of a product that one transaction looks at."""
        self.requests: list[WriteRequest] = []
        """Every request that a transaction has decided on, repetitions too."""

    @override
    async def commit(self, batch: Sequence[WriteRequest], patience: Patience | None = None) -> Committed:
        await asyncio.sleep(0)
        self._products.now += timedelta(microseconds=1)
        self.requests += batch
        self._closed: set[str] = set()
        taken: set[tuple[str, str]] = set()
        decisions = [self._decide(request, taken) for request in batch]
        touched: set[str] = set()
        for decision in decisions:
            if isinstance(decision, Done | Repeated):
                touched.update(decision.product_ids)
        touched |= self._closed
        return Committed(decisions, [state_of(self._products.row(key), EPOCH) for key in sorted(touched)])

    def _decide(self, request: WriteRequest, taken: set[tuple[str, str]]) -> Decision:
        key = request.origin.idempotency_key
        if key is None:
            return self._carry_out(request)
        name = (key.caller, key.key)
        if name in taken:
            return Postponed()
        if earlier := self._products.answers.get(name):
            if earlier.request_hash != key.request_hash:
                return Denied(KeyReused("the idempotency key was used for another request"))
            return Repeated(earlier.answer, earlier.product_ids)
        taken.add(name)
        decision = self._carry_out(request)
        if answer := key.render(decision.result if isinstance(decision, Done) else decision.refusal):
            self._products.answers[name] = StoredAnswer(key.request_hash, answer, decision.product_ids)
        return decision

    def _carry_out(self, request: WriteRequest) -> Done | Denied:
        products, command = self._products, request.command
        known = products.holds.rows
        named = {key: known[key] for key in command.reservation_ids if key in known}
        keys = dict.fromkeys([*command.keys, *(key for held in named.values() for key in held.product_ids)])
        rows = {key: products.row(key) for key in keys}
        facts = Facts(rows, products.swept, named, products.moment or products.now)
        facts.ended |= {
            key: products.holds.ended_lines(key, products.swept.get(key), facts.moment_of((key,)), self.limit) for key in keys
        }
        shelf = self._shelf(facts)
        decision: Done | Denied
        try:
            effects, reservation = shelf.decide(command, list(keys))
        except Refused as refusal:
            decision = Denied(refusal, bool(shelf.closings), list(keys))
        else:
            decision = Done([_stamped(effect, products.now) for effect in effects], reservation, list(keys))
        for effect in [*(_stamped(effect, products.now) for effect in shelf.closings), *self._effects_of(decision)]:
            if effect.change is not Change.UNCHANGED:
                products.rows[effect.row.id] = effect.row
            products.ledger += effect.movements()
        products.holds.apply(shelf)
        products.swept |= shelf.swept
        self._closed |= {effect.row.id for effect in shelf.closings}
        return decision

    @staticmethod
    def _effects_of(decision: Done | Denied) -> Sequence[Effect]:
        return decision.effects if isinstance(decision, Done) else ()


def _stamped(effect: Effect, now: datetime) -> Effect:
    row = effect.row
    if isinstance(row, Product) and effect.change is not Change.UNCHANGED:
        created_at = now if effect.change is Change.CREATED else row.created_at
        row = replace(row, created_at=created_at, updated_at=now, reserved=row.reserved or 0)
    return replace(effect, row=row, recorded_at=now if effect.entries else None)


def _newest(
    found: Sequence[Movement],
    limit: int,
    after: LedgerPosition | None,
    place_of: Callable[[Movement | LedgerPosition], tuple[Any, ...]],
) -> list[Movement]:
    ordered = sorted(found, key=place_of, reverse=True)
    return [movement for movement in ordered if after is None or place_of(movement) < place_of(after)][:limit]

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
from app.products.errors import KeyReused, Refused
from app.products.idempotency import StoredAnswer, WriteRequest
from app.products.product import Gone, LedgerPosition, Movement, Position, Product, Row
from app.products.source import ProductSource, state_of
from app.products.transactions import Committed, Patience, ProductTransactions

EPOCH = "0123456789abcdef"
INCARNATION = "1" * 16


class MemoryProducts(ProductSource):
    """The tables, and what reads of them find."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.ledger: list[Movement] = []
        self.answers: dict[tuple[str, str], StoredAnswer] = {}
        self.now = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
        """The time of the newest transaction."""

    def row(self, product_id: str) -> Row:
        """The row as it stands; an id without one is gone, at version 0."""
        return self.rows.get(product_id, Gone(product_id, 0))

    @override
    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        await asyncio.sleep(0)
        return {key: state_of(self.row(key), EPOCH) for key in keys}

    @override
    async def page(
        self, *, limit: int, after: Position | None, prefix: str, below_reorder_point: bool = False
    ) -> list[tuple[Product, Position]]:
        products = [row for row in self.rows.values() if isinstance(row, Product)]
        if prefix:
            products = [p for p in products if p.name.lower().startswith(prefix.lower())]
        if below_reorder_point:
            products = [p for p in products if p.stock < p.reorder_point]
        by_name = prefix and not below_reorder_point
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


class MemoryTransactions(ProductTransactions):
    """Transactions on these tables, one after another: nobody else ever holds a row."""

    def __init__(self, products: MemoryProducts) -> None:
        self._products = products
        self.requests: list[WriteRequest] = []
        """Every request that a transaction has decided on, repetitions too."""

    @override
    async def commit(self, batch: Sequence[WriteRequest], patience: Patience | None = None) -> Committed:
        await asyncio.sleep(0)
        self._products.now += timedelta(microseconds=1)
        self.requests += batch
        taken: set[tuple[str, str]] = set()
        decisions = [self._decide(request, taken) for request in batch]
        touched: set[str] = set()
        for request, decision in zip(batch, decisions, strict=True):
            if isinstance(decision, Done):
                touched.update(request.command.keys)
            elif isinstance(decision, Repeated):
                touched.update(decision.product_ids)
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
        if answer := key.render(decision.effects if isinstance(decision, Done) else decision.refusal):
            self._products.answers[name] = StoredAnswer(key.request_hash, answer, request.command.keys)
        return decision

    def _carry_out(self, request: WriteRequest) -> Done | Denied:
        products = self._products
        try:
            effects = request.command.decide({key: products.row(key) for key in request.command.keys})
        except Refused as refusal:
            return Denied(refusal)
        done = [_stamped(effect, products.now) for effect in effects]
        for effect in done:
            if effect.change is not Change.UNCHANGED:
                products.rows[effect.row.id] = effect.row
            products.ledger += effect.movements()
        return Done(done)


def _stamped(effect: Effect, now: datetime) -> Effect:
    row = effect.row
    if isinstance(row, Product) and effect.change is not Change.UNCHANGED:
        row = replace(row, created_at=now if effect.change is Change.CREATED else row.created_at, updated_at=now)
    return replace(effect, row=row, recorded_at=now if effect.entries else None)


def _newest(
    found: Sequence[Movement],
    limit: int,
    after: LedgerPosition | None,
    place_of: Callable[[Movement | LedgerPosition], tuple[Any, ...]],
) -> list[Movement]:
    ordered = sorted(found, key=place_of, reverse=True)
    return [movement for movement in ordered if after is None or place_of(movement) < place_of(after)][:limit]

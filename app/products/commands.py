"""The commands that change products. They are pure code: a command takes locked rows and returns new rows, or refuses.

A command is decided within its transaction on the rows of that moment, never on a cached copy. Several commands may be decided
one after another in one transaction, each on the rows that the one before it returned.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum

from typing_extensions import override

from app.products.errors import (
    AlreadyExists,
    InsufficientStock,
    PreconditionFailed,
    PreconditionRequired,
    ProductReserved,
    ProductsMissing,
    Shortage,
    StockLimit,
)
from app.products.product import ALWAYS, MAX_INTEGER, Draft, Gone, Line, Movement, Patch, Precondition, Product, Reason, Row
from app.products.values import value_class

UNSTAMPED = datetime.min.replace(tzinfo=UTC)
"""Placeholder for the times that the database sets."""


@value_class(frozen=True, slots=True)
class Entry:
    """One entry that a command writes to the ledger; the product's version and stock are those of the effect."""

    line: int
    delta: int
    reason: Reason
    reference: str | None = None
    reserved_delta: int = 0
    reservation_id: str | None = None


class Change(StrEnum):
    """What a write did to one product."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@value_class(frozen=True, slots=True)
class Effect:
    """One product after a command; its version has risen by one unless it is unchanged."""

    row: Row
    change: Change
    entries: Sequence[Entry] = ()
    recorded_at: datetime | None = None
    """When the entries were written to the ledger; ``None`` before that."""

    def movements(self) -> list[Movement]:
        """Return the ledger's entries for this product."""
        stock, reserved = (self.row.stock, self.row.reserved or 0) if isinstance(self.row, Product) else (0, 0)
        at = self.recorded_at or UNSTAMPED
        return [
            Movement(
                self.row.id, self.row.version, e.line, e.delta, stock, e.reason, e.reference, at,
                e.reserved_delta, reserved, e.reservation_id,
            )
            for e in self.entries
        ]  # fmt: skip


class Command:
    """One request to change products.

    It is not an ``ABC``, which would make each ``isinstance`` slow. mypy finds a command that decides nothing all the same.
    """

    def __init__(self, keys: Sequence[str], weight: int = 1, reservation_ids: Sequence[str] = ()) -> None:
        self.keys = keys
        """The ids of all products that the decision uses, each once."""
        self.weight = weight
        """The number of rows and ledger entries that it may touch."""
        self.reservation_ids = reservation_ids
        """The reservations that it names. The products of their lines are locked, too."""

    @abstractmethod
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        """Return an effect for each of ``keys``, in order, decided on their rows. If it raises ``Refused``, nothing changes."""


class Create(Command):
    """Create a product that must not exist."""

    def __init__(self, draft: Draft) -> None:
        super().__init__((draft.id,))
        self._draft = draft

    @override
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        current = rows[self._draft.id]
        if isinstance(current, Product):
            raise AlreadyExists(current.id, current.version)
        return (_created(self._draft, current),)


class Put(Command):
    """Create a product or replace all of its fields."""

    def __init__(self, draft: Draft, condition: Precondition = ALWAYS) -> None:
        super().__init__((draft.id,))
        self._draft = draft
        self._condition = condition

    @override
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        current = rows[self._draft.id]
        if not isinstance(current, Product):
            _check(self._condition, current)
            return (_created(self._draft, current),)
        if self._draft.stock is not None and not (self._condition.names_version or self._condition.create_only):
            raise PreconditionRequired(f"product {current.id} exists, so its stock is set only at a given version")
        _check(self._condition, current)
        return (_replaced(self._draft, current),)


class Upsert(Command):
    """Create or replace products of different ids; a stock that is given is an unconditional count."""

    def __init__(self, drafts: Sequence[Draft]) -> None:
        super().__init__([draft.id for draft in drafts], len(drafts))
        self._drafts = drafts

    @override
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        effects = []
        for draft in self._drafts:
            current = rows[draft.id]
            effects.append(_replaced(draft, current) if isinstance(current, Product) else _created(draft, current))
        return effects


class ChangeExisting(Command):
    """Change one existing product by a rule."""

    def __init__(self, product_id: str, condition: Precondition, rule: Callable[[Product], Effect]) -> None:
        super().__init__((product_id,))
        self._condition = condition
        self._rule = rule

    @override
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        [product_id] = self.keys
        current = rows[product_id]
        if not isinstance(current, Product):
            raise ProductsMissing((product_id,))
        _check(self._condition, current)
        return (self._rule(current),)


def merge_patch(product_id: str, patch: Patch, condition: Precondition = ALWAYS) -> Command:
    """Change some fields of a product."""
    given = {field: value for field, value in asdict(patch).items() if value is not None}
    return ChangeExisting(product_id, condition, lambda product: _changed(product, replace(product, **given)))


def set_stock(product_id: str, stock: int, condition: Precondition = ALWAYS, reference: str | None = None) -> Command:
    """Set a product's stock to a physical count. The version rises even if the count confirms the old stock."""
    return ChangeExisting(product_id, condition, lambda product: _counted(product, product, stock, reference))


def delete(product_id: str, condition: Precondition = ALWAYS) -> Command:
    """Delete a product with any stock, of which nothing is held."""

    def rule(product: Product) -> Effect:
        if product.reserved:
            raise ProductReserved(product.id, product.stock, product.reserved, product.version)
        entry = Entry(0, -product.stock, Reason.DELETION)
        return Effect(Gone(product.id, product.version + 1), Change.DELETED, (entry,))

    return ChangeExisting(product_id, condition, rule)


class Adjust(Command):
    """Add to and take from stocks, all lines or none. The sum of a product's lines is checked; the ledger has each line.

    Only free units are taken, unless ``take_reserved`` says that held ones are missing, too.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        reason: Reason,
        reference: str | None = None,
        condition: Precondition = ALWAYS,
        *,
        take_reserved: bool = False,
    ) -> None:
        super().__init__(list(dict.fromkeys(line.product_id for line in lines)), len(lines))
        self._lines = lines
        self._reason = reason
        self._reference = reference
        self._condition = condition
        self._take_reserved = take_reserved

    @override
    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        products = [row for key in self.keys if isinstance(row := rows[key], Product)]
        if len(products) < len(self.keys):
            raise ProductsMissing([key for key in self.keys if not isinstance(rows[key], Product)])
        entries: dict[str, list[Entry]] = {product.id: [] for product in products}
        for number, line in enumerate(self._lines):
            entries[line.product_id].append(Entry(number, line.delta, self._reason, self._reference))
        net = {product_id: sum(entry.delta for entry in listed) for product_id, listed in entries.items()}
        for product in products:
            _check(self._condition, product)
        shortages = [
            shortage_of(product, within, -net[product.id])
            for product in products
            if net[product.id] < 0 and (within := product.stock if self._take_reserved else product.free) + net[product.id] < 0
        ]
        if shortages:
            raise InsufficientStock(shortages)
        if above := [product.id for product in products if product.stock + net[product.id] > MAX_INTEGER]:
            raise StockLimit(above)
        return [_stocked(p, p.stock + net[p.id], entries[p.id]) for p in products]


def shortage_of(product: Product, within: int, requested: int) -> Shortage:
    """Return the shortage of a product, of which the request could have ``within``."""
    return Shortage(product.id, max(0, within), requested, product.version, product.stock, product.reserved or 0)


def _check(condition: Precondition, current: Row) -> None:
    if not condition.allows(current):
        raise PreconditionFailed(current.id, current.version if isinstance(current, Product) else None)


def _created(draft: Draft, current: Row) -> Effect:
    product = Product(
        id=draft.id,
        name=draft.name,
        price_cents=draft.price_cents,
        stock=draft.stock or 0,
        reorder_point=draft.reorder_point,
        version=current.version + 1,
        created_at=UNSTAMPED,
        updated_at=UNSTAMPED,
    )
    return Effect(product, Change.CREATED, (Entry(0, product.stock, Reason.OPENING),))


def _replaced(draft: Draft, current: Product) -> Effect:
    product = replace(current, name=draft.name, price_cents=draft.price_cents, reorder_point=draft.reorder_point)
    if draft.stock is not None:
        return _counted(current, product, draft.stock)
    return _changed(current, product)


def _changed(before: Product, after: Product) -> Effect:
    if after == before:
        return Effect(before, Change.UNCHANGED)
    return Effect(replace(after, version=after.version + 1), Change.UPDATED)


def _counted(before: Product, after: Product, stock: int, reference: str | None = None) -> Effect:
    return _stocked(after, stock, (Entry(0, stock - before.stock, Reason.COUNT, reference),))


def _stocked(product: Product, stock: int, entries: Sequence[Entry]) -> Effect:
    return Effect(product.with_units(stock, product.reserved), Change.UPDATED, entries)

"""What a write does to products, decided on rows that are locked. Pure: rows in, rows out, or a refusal.

A command is decided inside its transaction on the rows as they then stand, never on a cached copy; several commands may be
decided one after another in one transaction, each on the rows that the one before it left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from app.products.errors import (
    AlreadyExists,
    InsufficientStock,
    PreconditionFailed,
    PreconditionRequired,
    ProductsMissing,
    Shortage,
    StockLimit,
)
from app.products.product import ALWAYS, MAX_INTEGER, Draft, Gone, Line, Movement, Patch, Precondition, Product, Reason, Row

UNSTAMPED = datetime.min.replace(tzinfo=UTC)
"""Stands for the times that the database sets."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a command writes to the ledger for one product; its version and final stock are the effect's."""

    line: int
    delta: int
    reason: Reason
    reference: str | None = None


class Change(StrEnum):
    """What a write did to one product."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Effect:
    """One product after a command; its version has risen by one unless it is unchanged."""

    row: Row
    change: Change
    entries: Sequence[Entry] = ()
    recorded_at: datetime | None = None
    """When the ledger took the entries; ``None`` until it did."""

    def movements(self) -> list[Movement]:
        """The ledger's entries for this product."""
        stock = self.row.stock if isinstance(self.row, Product) else 0
        at = self.recorded_at or UNSTAMPED
        return [
            Movement(self.row.id, self.row.version, e.line, e.delta, stock, e.reason, e.reference, at) for e in self.entries
        ]


class Command(Protocol):
    """One request to change products."""

    @property
    def keys(self) -> Sequence[str]:
        """The ids of all products that the decision looks at."""

    @property
    def weight(self) -> int:
        """Its share of a joined transaction: the rows and ledger entries it may touch."""

    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        """Decide on the rows of ``keys``; an effect for each key, in order. Raises ``Refused``: then nothing changes."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create a product that must not exist."""

    draft: Draft

    @property
    def keys(self) -> Sequence[str]:
        """See ``Command``."""
        return (self.draft.id,)

    @property
    def weight(self) -> int:
        """See ``Command``."""
        return 1

    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        """See ``Command``."""
        current = rows[self.draft.id]
        if isinstance(current, Product):
            raise AlreadyExists(current.id, current.version)
        return (_created(self.draft, current),)


@dataclass(frozen=True, slots=True)
class Put:
    """Create a product or replace it whole."""

    draft: Draft
    condition: Precondition = ALWAYS

    @property
    def keys(self) -> Sequence[str]:
        """See ``Command``."""
        return (self.draft.id,)

    @property
    def weight(self) -> int:
        """See ``Command``."""
        return 1

    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        """See ``Command``."""
        current = rows[self.draft.id]
        exists = isinstance(current, Product)
        if exists and self.draft.stock is not None and not (self.condition.names_version or self.condition.create_only):
            raise PreconditionRequired(
                f"product {current.id} exists, and setting its stock with a whole product needs If-Match"
            )
        _check(self.condition, current)
        return (_replaced(self.draft, current) if isinstance(current, Product) else _created(self.draft, current),)


@dataclass(frozen=True, slots=True)
class Upsert:
    """Create or replace many products; a stock that is given is an unconditional count."""

    drafts: Sequence[Draft]

    @property
    def keys(self) -> Sequence[str]:
        """See ``Command``."""
        return [draft.id for draft in self.drafts]

    @property
    def weight(self) -> int:
        """See ``Command``."""
        return len(self.drafts)

    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        """See ``Command``."""
        effects = []
        for draft in self.drafts:
            current = rows[draft.id]
            effects.append(_replaced(draft, current) if isinstance(current, Product) else _created(draft, current))
        return effects


@dataclass(frozen=True, slots=True)
class ChangeExisting:
    """A change of one existing product, by a rule of its own."""

    product_id: str
    condition: Precondition
    rule: Callable[[Product], Effect]

    @property
    def keys(self) -> Sequence[str]:
        """See ``Command``."""
        return (self.product_id,)

    @property
    def weight(self) -> int:
        """See ``Command``."""
        return 1

    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        """See ``Command``."""
        current = rows[self.product_id]
        if not isinstance(current, Product):
            raise ProductsMissing((self.product_id,))
        _check(self.condition, current)
        return (self.rule(current),)


def merge_patch(product_id: str, patch: Patch, condition: Precondition = ALWAYS) -> Command:
    """Change some fields of a product."""
    given = {
        field: value
        for field, value in (
            ("name", patch.name),
            ("price_cents", patch.price_cents),
            ("reorder_point", patch.reorder_point),
        )
        if value is not None
    }

    def rule(product: Product) -> Effect:
        return _changed(product, replace(product, **given))  # type: ignore[arg-type]  # names and types are those above

    return ChangeExisting(product_id, condition, rule)


def count(product_id: str, stock: int, condition: Precondition = ALWAYS, reference: str | None = None) -> Command:
    """Set a product's stock to what was physically counted: a new version even when the count confirms the old stock."""
    return ChangeExisting(product_id, condition, lambda product: _counted(product, product, stock, reference))


def delete(product_id: str, condition: Precondition = ALWAYS) -> Command:
    """Delete a product, whatever its stock."""

    def rule(product: Product) -> Effect:
        entry = Entry(0, -product.stock, Reason.DELETION)
        return Effect(Gone(product.id, product.version + 1), Change.DELETED, (entry,))

    return ChangeExisting(product_id, condition, rule)


@dataclass(frozen=True, slots=True)
class Adjust:
    """Add to and take from stocks: all lines or none. The net of each product decides, its lines stand in the ledger."""

    lines: Sequence[Line]
    reason: Reason
    reference: str | None = None
    condition: Precondition = ALWAYS

    @property
    def keys(self) -> Sequence[str]:
        """See ``Command``."""
        return list(dict.fromkeys(line.product_id for line in self.lines))

    @property
    def weight(self) -> int:
        """See ``Command``."""
        return len(self.lines)

    def decide(self, rows: Mapping[str, Row]) -> Sequence[Effect]:
        """See ``Command``; an effect for each product, in the order first named."""
        products = [row for key in self.keys if isinstance(row := rows[key], Product)]
        if len(products) < len(self.keys):
            raise ProductsMissing([key for key in self.keys if not isinstance(rows[key], Product)])
        entries: dict[str, list[Entry]] = {product.id: [] for product in products}
        for number, line in enumerate(self.lines):
            entries[line.product_id].append(Entry(number, line.delta, self.reason, self.reference))
        net = {product_id: sum(entry.delta for entry in listed) for product_id, listed in entries.items()}
        for product in products:
            _check(self.condition, product)
        shortages = [
            Shortage(product.id, product.stock, -net[product.id], product.version)
            for product in products
            if product.stock + net[product.id] < 0
        ]
        if shortages:
            raise InsufficientStock(shortages)
        if above := [product.id for product in products if product.stock + net[product.id] > MAX_INTEGER]:
            raise StockLimit(above)
        return [_risen(replace(p, stock=p.stock + net[p.id]), entries[p.id]) for p in products]


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
    return Effect(before, Change.UNCHANGED) if after == before else _risen(after)


def _counted(before: Product, after: Product, stock: int, reference: str | None = None) -> Effect:
    entry = Entry(0, stock - before.stock, Reason.COUNT, reference)
    return _risen(replace(after, stock=stock), (entry,))


def _risen(product: Product, entries: Sequence[Entry] = ()) -> Effect:
    return Effect(replace(product, version=product.version + 1), Change.UPDATED, entries)

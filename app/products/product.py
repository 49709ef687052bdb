"""A product, with its values and the rules for them. This module does no I/O."""

import re
import secrets
import time
from datetime import datetime
from enum import StrEnum

from app.buckets import moved_to
from app.products.values import value_class

MAX_INTEGER = 2**53 - 1
"""Largest price, stock or reorder point. Every JSON reader represents it exactly."""
MAX_NAME_LENGTH = 200
ID_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ID = re.compile(ID_PATTERN[:-1] + r"\Z")


@value_class(frozen=True, slots=True)
class Product:
    """One version of a product. Money is in cents, stock in units."""

    id: str
    name: str
    price_cents: int
    stock: int
    reorder_point: int
    version: int
    created_at: datetime
    updated_at: datetime
    reserved: int | None = None
    """Units that are held for somebody; ``None`` in a database whose payload has no reservations yet."""

    def with_units(self, stock: int, reserved: int | None) -> "Product":
        """Return the product's next version, with these units. It is written out because ``replace`` is slow."""
        return Product(
            self.id,
            self.name,
            self.price_cents,
            stock,
            self.reorder_point,
            self.version + 1,
            self.created_at,
            self.updated_at,
            reserved,
        )

    @property
    def free(self) -> int:
        """Units that nobody holds. It is negative if a count found fewer units than are held."""
        return self.stock - (self.reserved or 0)


@value_class(frozen=True, slots=True)
class Gone:
    """The absence of a product: it was deleted at ``version``, or never existed (version 0)."""

    id: str
    version: int


Row = Product | Gone


@value_class(frozen=True, slots=True)
class Draft:
    """A whole product as a client sends it. ``stock`` is ``None`` when left out: 0 in a new product, otherwise unchanged."""

    id: str
    name: str
    price_cents: int
    stock: int | None = None
    reorder_point: int = 0


@value_class(frozen=True, slots=True)
class Patch:
    """The fields to change; ``None`` leaves a field as it is."""

    name: str | None = None
    price_cents: int | None = None
    reorder_point: int | None = None


@value_class(frozen=True, slots=True)
class Precondition:
    """Conditions that the current product must meet before a write is carried out."""

    versions: frozenset[str] | None = None
    """The product is at one of these versions. They are a client's texts, and some may not be a version at all."""
    any_version: bool = False
    """The product exists."""
    create_only: bool = False
    """The product does not exist."""

    @property
    def names_version(self) -> bool:
        """Whether the product must exist."""
        return self.any_version or self.versions is not None

    def allows(self, current: Row) -> bool:
        """Return whether a write to ``current`` may be carried out."""
        if self.create_only and isinstance(current, Product):
            return False
        if not self.names_version:
            return True
        return isinstance(current, Product) and (self.any_version or str(current.version) in (self.versions or ()))


ALWAYS = Precondition()


class Reason(StrEnum):
    """Why a stock or its held units changed. A caller names one of the first six; the service sets the others."""

    SALE = "sale"
    RETURN = "return"
    RECEIPT = "receipt"
    DAMAGE = "damage"
    CORRECTION = "correction"
    OTHER = "other"
    OPENING = "opening"
    COUNT = "count"
    DELETION = "deletion"
    HOLD = "hold"
    RELEASE = "release"
    EXPIRY = "expiry"


@value_class(frozen=True, slots=True)
class Line:
    """One line of an adjustment: units to add (positive) or take (negative)."""

    product_id: str
    delta: int


@value_class(frozen=True, slots=True)
class Movement:
    """One entry of the stock ledger, unique by product, version and line (counted from 0). It never changes."""

    product_id: str
    version: int
    line: int
    delta: int
    stock_after: int
    """The product's stock at that version, after all lines of the request."""
    reason: Reason
    reference: str | None
    created_at: datetime
    reserved_delta: int = 0
    reserved_after: int = 0
    """The product's held units at that version."""
    reservation_id: str | None = None

    @property
    def id(self) -> str:
        """The movement's id, which is opaque to clients."""
        return f"{self.product_id}@{self.version}.{self.line}"


def is_product_id(text: str) -> bool:
    """Return whether ``text`` may be a product's id: 1-64 of ``A-Z a-z 0-9 . _ : -``, not ``.`` or ``..``."""
    return _ID.match(text) is not None and text not in (".", "..")


def new_product_id(bucket: int | None = None) -> str:
    """Return a new id: 12 hexadecimal digits of milliseconds since 1970, so that ids sort by time, and 20 random ones.

    If a bucket is named, the last four digits lead to it.
    """
    drawn = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    return drawn if bucket is None else moved_to(bucket, drawn)


def name_fault(name: str) -> str | None:
    """Return what is wrong with a product's name, or ``None``."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        return f"must have 1 to {MAX_NAME_LENGTH} characters"
    if _CONTROL.search(name):
        return "must not contain control characters"
    if _SURROGATE.search(name):
        return "must not contain surrogates, which are half a character"
    if not name.strip():
        return "must not be blank"
    return None


@value_class(frozen=True, slots=True)
class Position:
    """Where a page of the list ended: the last product's id and, when listing by name, its sort key."""

    id: str
    name_key: str = ""


@value_class(frozen=True, slots=True)
class LedgerPosition:
    """Where a page of the ledger ended."""

    product_id: str
    version: int
    line: int
    created_at: datetime

"""The queries of the ledger: pages of one product's movements, or of those of one reference, newest first."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from fastapi import Request

from app.api import cursors
from app.api.models import MAX_REFERENCE, UNSTORABLE
from app.api.problems import Fault, invalid
from app.products.payload import timestamp
from app.products.product import LedgerPosition, is_product_id

_OF_PRODUCT = 3
_OF_REFERENCE = 4
"""The two forms of cursor."""
_SHOWN = 80
_MAX_VERSION = 2**63 - 1
_MAX_LINE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ProductLedger:
    """A page of one product's movements."""

    product_id: str
    limit: int
    after: LedgerPosition | None

    def cursor(self, end: LedgerPosition) -> str:
        """Write where this page ended, bound to the product."""
        return cursors.pack(_OF_PRODUCT, self.product_id, end.version, end.line, timestamp(end.created_at))

    def next_link(self, cursor: str) -> str:
        """Write the Link header to the next page."""
        path = f"/products/{quote(self.product_id, safe=':')}/stock/movements"
        return cursors.next_link(path, {"limit": self.limit, "after": cursor})


@dataclass(frozen=True, slots=True)
class ReferenceLedger:
    """A page of the movements of one reference."""

    reference: str
    limit: int
    after: LedgerPosition | None

    def cursor(self, end: LedgerPosition) -> str:
        """Write where this page ended, bound to the reference."""
        return cursors.pack(
            _OF_REFERENCE, self.reference, end.product_id, end.version, end.line, timestamp(end.created_at)
        )  # fmt: skip

    def next_link(self, cursor: str) -> str:
        """Write the Link header to the next page."""
        query: dict[str, str | int | None] = {"reference": self.reference, "limit": self.limit, "after": cursor}
        return cursors.next_link("/stock/movements", query)


def _position(product_id: str, version: object, line: object, created_at: str) -> LedgerPosition | None:
    # Any JSON may stand in a cursor that somebody made up: what the database could not take must not reach it.
    if type(version) is not int or type(line) is not int or not is_product_id(product_id):
        return None
    try:
        moment = datetime.fromisoformat(created_at)
        sound = timestamp(moment) == created_at
    except (ValueError, OverflowError):
        return None
    if not (sound and 1 <= version <= _MAX_VERSION and 0 <= line <= _MAX_LINE):
        return None
    return LedgerPosition(product_id, version, line, moment)


def _product_position(cursor: str, product_id: str) -> LedgerPosition | None:
    match cursors.unpack(cursor, _OF_PRODUCT):
        case [str(made_for), version, line, str(created_at)] if made_for == product_id:
            return _position(product_id, version, line, created_at)
    return None


def _reference_position(cursor: str, reference: str) -> LedgerPosition | None:
    match cursors.unpack(cursor, _OF_REFERENCE):
        case [str(made_for), str(product_id), version, line, str(created_at)] if made_for == reference:
            return _position(product_id, version, line, created_at)
    return None


def _values(request: Request, known: Collection[str]) -> tuple[dict[str, str], int, list[Fault]]:
    """Give the query's values and limit, and what is wrong with them so far."""
    pairs = cursors.pairs_of(request)
    times = Counter(name for name, _ in pairs)
    faults = [
        Fault(f"is not a parameter of this operation; it takes {', '.join(known)}", parameter=name[:_SHOWN])
        for name in sorted(times)
        if name not in known
    ]
    faults += [Fault("may be sent only once", parameter=name) for name in known if times[name] > 1]
    values = dict(pairs)
    limit = cursors.read_limit(values.get("limit"))
    if limit is None:
        faults.append(Fault(cursors.LIMIT_RULE, parameter="limit"))
    return values, limit or cursors.DEFAULT_LIMIT, faults


def product_ledger(request: Request, product_id: str) -> ProductLedger:
    """Read the query of one product's ledger.

    Raises:
        Problem: 422, a parameter is unknown, repeated or has no legal value.
    """
    values, limit, faults = _values(request, ("limit", "after"))
    cursor = values.get("after")
    after = None if cursor is None else _product_position(cursor, product_id)
    if cursor is not None and after is None:
        faults.append(Fault("must be `next` of a page of this product's movements", parameter="after"))
    if faults:
        raise invalid(faults)
    return ProductLedger(product_id, limit, after)


def reference_ledger(request: Request) -> ReferenceLedger:
    """Read the query of one reference's ledger.

    Raises:
        Problem: 422, as above, or no reference was sent.
    """
    values, limit, faults = _values(request, ("reference", "limit", "after"))
    reference, cursor = values.get("reference"), values.get("after")
    if reference is None:
        faults.append(
            Fault("is required: one product's movements are at /products/{id}/stock/movements", parameter="reference")
        )
    elif not 1 <= len(reference) <= MAX_REFERENCE or UNSTORABLE.search(reference):
        rule = f"must have 1 to {MAX_REFERENCE} characters, none of them a control character"
        faults.append(Fault(rule, parameter="reference"))
    after = None if cursor is None else _reference_position(cursor, reference or "")
    if cursor is not None and after is None:
        faults.append(Fault("must be `next` of a page of this reference's movements", parameter="after"))
    if faults:
        raise invalid(faults)
    return ReferenceLedger(reference or "", limit, after)

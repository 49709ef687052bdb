"""The queries of lists: the products, movements or reservations that a client requests, page by page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize
from urllib.parse import quote

from fastapi import Request

from app.api.models import ID_RULE, MAX_REFERENCE, UNSTORABLE
from app.api.problems import FieldError
from app.api.query_parts import (
    DEFAULT_LIMIT,
    LIST_FORM,
    MAX_IDS,
    MAX_LINE,
    MAX_SHOWN,
    MAX_VERSION,
    PRODUCT_LEDGER_FORM,
    REFERENCE_LEDGER_FORM,
    RESERVATIONS_FORM,
    NextPage,
    limit_errors,
    moment_of,
    name_errors,
    next_page_of,
    pack,
    pairs_of,
    read_limit,
    refuse,
    text_error,
    unpack,
)
from app.products.payload import timestamp
from app.products.product import MAX_NAME_LENGTH, LedgerPosition, Position, is_product_id
from app.products.reservation import ReservationPosition, Status, is_reservation_id

_FILTERS = ("limit", "after", "q", "below_reorder_point", "uncovered")


@dataclass(frozen=True, slots=True)
class ProductsById:
    """Products by id, each once, in the order in which the ids were first sent."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class ProductListQuery:
    """A page of the list of products."""

    limit: int
    prefix: str
    below_reorder_point: bool
    after: Position | None = None
    uncovered: bool = False
    """Only products of which more is held than is there. It excludes ``below_reorder_point``."""

    @property
    def by_name(self) -> bool:
        """Whether the order is by name; otherwise it is by id."""
        return bool(self.prefix) and not self.below_reorder_point and not self.uncovered

    @property
    def _selected(self) -> bool | str:
        return "uncovered" if self.uncovered else self.below_reorder_point

    def next_page(self, end: Position) -> NextPage:
        """Return the page that begins where this one ended, with the same filters."""
        cursor = pack(LIST_FORM, self.prefix, self._selected, end.id, end.name_key)
        selected = {
            name: "true" if chosen else None
            for name, chosen in (("below_reorder_point", self.below_reorder_point), ("uncovered", self.uncovered))
        }
        return next_page_of("/products", {"limit": self.limit, "q": self.prefix or None, **selected, "after": cursor})

    def position(self, cursor: str) -> Position | None:
        """Return the position in a cursor, or ``None`` if it is not a cursor of this list or belongs to other filters."""
        match unpack(cursor, LIST_FORM):
            case [str(prefix), bool() | str() as selected, str(product_id), str(name_key)]:
                ours = (prefix, selected) == (self.prefix, self._selected) and is_product_id(product_id)
                sound = not UNSTORABLE.search(name_key) and (self.by_name or not name_key)
                return Position(product_id, name_key) if ours and sound else None
        return None


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """A page of the movements of one product or one reference, which is the ``owner`` of its cursors."""

    form: int
    owner: str
    limit: int
    after: LedgerPosition | None

    def next_page(self, end: LedgerPosition) -> NextPage:
        """Return the page that begins where this one ended."""
        place = (end.version, end.line, timestamp(end.created_at))
        if self.form == PRODUCT_LEDGER_FORM:
            path = f"/products/{quote(self.owner, safe=':')}/stock/movements"
            return next_page_of(path, {"limit": self.limit, "after": pack(self.form, self.owner, *place)})
        cursor = pack(self.form, self.owner, end.product_id, *place)
        return next_page_of("/stock/movements", {"reference": self.owner, "limit": self.limit, "after": cursor})


@dataclass(frozen=True, slots=True)
class ReservationQuery:
    """A page of the reservations with a reference, or of those that hold units of a product."""

    owner: str
    of_product: bool
    status: Status | None
    limit: int
    after: ReservationPosition | None = None

    def next_page(self, end: ReservationPosition) -> NextPage:
        """Return the page that begins where this one ended, with the same filters."""
        cursor = pack(RESERVATIONS_FORM, self.owner, self.of_product, self.status or "", timestamp(end.created_at), end.id)
        owner = "product_id" if self.of_product else "reference"
        return next_page_of("/reservations", {owner: self.owner, "status": self.status, "limit": self.limit, "after": cursor})

    def position(self, cursor: str) -> ReservationPosition | None:
        """Return the position in a cursor, or ``None`` if it is not a cursor of this list or belongs to other filters."""
        match unpack(cursor, RESERVATIONS_FORM):
            case [str(owner), bool(of_product), str(status), str(created_at), str(reservation_id)]:
                ours = (owner, of_product, status) == (self.owner, self.of_product, self.status or "")
                moment = moment_of(created_at)
                sound = moment is not None and is_reservation_id(reservation_id)
                return ReservationPosition(moment, reservation_id) if ours and sound and moment else None
        return None


def product_query(request: Request) -> ProductsById | ProductListQuery:
    """Read the query of GET /products.

    Raises:
        Problem: 422, a parameter is unknown, repeated, not allowed with another one, or has no legal value.
    """
    pairs = pairs_of(request)
    names = {name for name, _ in pairs}
    errors = name_errors(pairs, ("id", *_FILTERS), _FILTERS, "id, or limit, after, q, below_reorder_point and uncovered")
    query: ProductsById | ProductListQuery
    if "id" in names:
        query, more = _products_by_id([value for name, value in pairs if name == "id"], names)
    else:
        query, more = _product_list(dict(pairs))
    refuse([*errors, *more])
    return query


def product_ledger(request: Request, product_id: str) -> LedgerQuery:
    """Read the query of one product's ledger.

    Raises:
        Problem: 422, a parameter is unknown, repeated or has no legal value.
    """
    values, errors = _list_values(request, ("limit", "after"))
    return _ledger_query(PRODUCT_LEDGER_FORM, product_id, values, errors, "product")


def reference_ledger(request: Request) -> LedgerQuery:
    """Read the query of one reference's ledger.

    Raises:
        Problem: 422, as above, or no reference was sent.
    """
    values, errors = _list_values(request, ("reference", "limit", "after"))
    reference = values.get("reference")
    if reference is None:
        errors.append(
            FieldError("is required: one product's movements are at /products/{id}/stock/movements", parameter="reference")
        )
    elif not 1 <= len(reference) <= MAX_REFERENCE or UNSTORABLE.search(reference):
        errors.append(text_error("reference", MAX_REFERENCE))
    return _ledger_query(REFERENCE_LEDGER_FORM, reference or "", values, errors, "reference")


def reservation_query(request: Request) -> ReservationQuery:
    """Read the query of GET /reservations.

    Raises:
        Problem: 422, as above, or neither a reference nor a product was sent, or both.
    """
    values, errors = _list_values(request, ("reference", "product_id", "status", "limit", "after"))
    reference, product_id, status = (values.get(name) for name in ("reference", "product_id", "status"))
    if (reference is None) == (product_id is None):
        errors.append(FieldError("is required, or product_id; only one of them may be sent", parameter="reference"))
    if reference is not None and (not 1 <= len(reference) <= MAX_REFERENCE or UNSTORABLE.search(reference)):
        errors.append(text_error("reference", MAX_REFERENCE))
    if product_id is not None and not is_product_id(product_id):
        errors.append(FieldError(ID_RULE, parameter="product_id"))
    if status is not None and status not in set(Status):
        errors.append(FieldError(f"must be one of {', '.join(Status)}", parameter="status"))
        status = None
    query = ReservationQuery(
        product_id or reference or "",
        product_id is not None,
        Status(status) if status is not None else None,
        read_limit(values.get("limit")) or DEFAULT_LIMIT,
    )
    if (cursor := values.get("after")) is not None:
        after = query.position(cursor)
        if after is None:
            errors.append(FieldError("must be `next` of a page that was made with the same filters", parameter="after"))
        query = replace(query, after=after)
    refuse(errors)
    return query


def _products_by_id(ids: Sequence[str], names: set[str]) -> tuple[ProductsById, list[FieldError]]:
    rule = "cannot be combined with id: read many products, or list them"
    errors = [FieldError(rule, parameter=name) for name in sorted(names - {"id"})]
    if len(ids) > MAX_IDS:
        errors.append(FieldError(f"may be sent at most {MAX_IDS} times; {len(ids)} were sent", parameter="id"))
    errors += [
        FieldError(f"{ID_RULE}; number {index + 1}, {product_id[:MAX_SHOWN]!a}, is not", parameter="id")
        for index, product_id in enumerate(ids[:MAX_IDS])
        if not is_product_id(product_id)
    ]
    return ProductsById(tuple(dict.fromkeys(ids))), errors


def _product_list(values: dict[str, str]) -> tuple[ProductListQuery, list[FieldError]]:
    prefix, below, cursor = values.get("q"), values.get("below_reorder_point"), values.get("after")
    uncovered = values.get("uncovered")
    prefix = prefix if prefix is None else normalize("NFC", prefix)  # as names are stored
    limit = read_limit(values.get("limit"))
    errors = limit_errors(limit)
    if prefix is not None and not (1 <= len(prefix) <= MAX_NAME_LENGTH and not UNSTORABLE.search(prefix)):
        errors.append(text_error("q", MAX_NAME_LENGTH))
    errors += [
        FieldError("must be true or false", parameter=name)
        for name, value in (("below_reorder_point", below), ("uncovered", uncovered))
        if value not in {None, "true", "false"}
    ]
    if below == uncovered == "true":
        errors.append(FieldError("cannot be combined with below_reorder_point", parameter="uncovered"))
    page = ProductListQuery(limit or DEFAULT_LIMIT, prefix or "", below == "true", uncovered=uncovered == "true")
    if cursor is not None:
        after = page.position(cursor)
        if after is None:
            errors.append(FieldError("must be `next` of a page that was made with the same filters", parameter="after"))
        page = replace(page, after=after)
    return page, errors


def _list_values(request: Request, known: Sequence[str]) -> tuple[dict[str, str], list[FieldError]]:
    """Return the query's values, and the errors in their names and in the limit."""
    pairs = pairs_of(request)
    values = dict(pairs)
    return values, name_errors(pairs, known, known, ", ".join(known)) + limit_errors(read_limit(values.get("limit")))


def _ledger_query(
    form: int, owner: str, values: Mapping[str, str], errors: Sequence[FieldError], owner_kind: str
) -> LedgerQuery:
    """Return the page that the values describe. Raises ``Problem`` (422) with ``errors`` and the error of the cursor."""
    cursor = values.get("after")
    after = None if cursor is None else _ledger_position(cursor, form, owner)
    if cursor is not None and after is None:
        errors = [*errors, FieldError(f"must be `next` of a page of this {owner_kind}'s movements", parameter="after")]
    refuse(errors)
    return LedgerQuery(form, owner, read_limit(values.get("limit")) or DEFAULT_LIMIT, after)


def _ledger_position(cursor: str, form: int, owner: str) -> LedgerPosition | None:
    """Return the position in a cursor, or ``None`` if it is not a cursor or belongs to another ``owner``.

    The owner is the product or the reference.
    """
    # A cursor that somebody made up may hold any JSON, and values that the database cannot take must not reach it.
    parts = unpack(cursor, form)
    if form == PRODUCT_LEDGER_FORM:
        parts = [*parts[:1], *parts]
    match parts:
        case [str(found), str(product_id), version, line, str(created_at)]:
            pass
        case _:
            return None
    if found != owner or type(version) is not int or type(line) is not int or not is_product_id(product_id):
        return None
    moment = moment_of(created_at)
    if not (moment and 1 <= version <= MAX_VERSION and 0 <= line <= MAX_LINE):
        return None
    return LedgerPosition(product_id, version, line, moment)

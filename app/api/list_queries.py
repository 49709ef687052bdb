"""The queries of lists: the products, movements or changes that a client requests, and the cursors that lead from page to page.

A cursor is opaque to clients. It begins with the number of its form and the filters of its list, so that a cursor of another
form or list is refused, not misread.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from unicodedata import normalize
from urllib.parse import quote, urlencode

from fastapi import Request

from app.api.models import ID_RULE, MAX_REFERENCE, UNSTORABLE
from app.api.problems import FieldError, invalid
from app.feed.events import RESERVATION_LINE, Cursor, EventType
from app.feed.events import Position as FeedPosition
from app.products.payload import timestamp
from app.products.product import MAX_NAME_LENGTH, LedgerPosition, Position, is_product_id
from app.products.reservation import ReservationPosition, Status, is_reservation_id

MAX_IDS = 250
MAX_LIMIT = 250
DEFAULT_LIMIT = 50
MAX_PARAMETERS = 1_000
MAX_SAMPLES = 10**12
MAX_CHANGES = 1_000
DEFAULT_CHANGES = 100
MAX_WAIT_S = 30
_LIST_FORM, _PRODUCT_LEDGER_FORM, _REFERENCE_LEDGER_FORM, _FEED_FORM, _RESERVATIONS_FORM = 2, 3, 4, 5, 6
_MAX_VERSION = 2**63 - 1
_MAX_LINE = 2**31 - 1
_MAX_SHOWN = 80
_LIMIT = re.compile("[1-9][0-9]{0,3}")
_WAIT = re.compile("[0-9]{1,2}")
_COUNT = re.compile("[0-9]{1,13}")
_CURSOR = re.compile("[A-Za-z0-9_-]{1,8192}")
_FILTERS = ("limit", "after", "q", "below_reorder_point", "uncovered")


@dataclass(frozen=True, slots=True)
class NextPage:
    """The cursor of the next page, which ``after`` takes, and the Link header."""

    cursor: str
    link: str


@dataclass(frozen=True, slots=True)
class ProductsById:
    """Products by id, each once, in the order in which the ids were first sent."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class ProductPage:
    """A page of the list."""

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
        cursor = _pack(_LIST_FORM, self.prefix, self._selected, end.id, end.name_key)
        selected = {
            name: "true" if chosen else None
            for name, chosen in (("below_reorder_point", self.below_reorder_point), ("uncovered", self.uncovered))
        }
        return _next_page("/products", {"limit": self.limit, "q": self.prefix or None, **selected, "after": cursor})

    def position(self, cursor: str) -> Position | None:
        """Return the position in a cursor, or ``None`` if it is not a cursor of this list or belongs to other filters."""
        match _unpack(cursor, _LIST_FORM):
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
        if self.form == _PRODUCT_LEDGER_FORM:
            path = f"/products/{quote(self.owner, safe=':')}/stock/movements"
            return _next_page(path, {"limit": self.limit, "after": _pack(self.form, self.owner, *place)})
        cursor = _pack(self.form, self.owner, end.product_id, *place)
        return _next_page("/stock/movements", {"reference": self.owner, "limit": self.limit, "after": cursor})


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
        cursor = _pack(_RESERVATIONS_FORM, self.owner, self.of_product, self.status or "", timestamp(end.created_at), end.id)
        owner = "product_id" if self.of_product else "reference"
        return _next_page("/reservations", {owner: self.owner, "status": self.status, "limit": self.limit, "after": cursor})

    def position(self, cursor: str) -> ReservationPosition | None:
        """Return the position in a cursor, or ``None`` if it is not a cursor of this list or belongs to other filters."""
        match _unpack(cursor, _RESERVATIONS_FORM):
            case [str(owner), bool(of_product), str(status), str(created_at), str(reservation_id)]:
                ours = (owner, of_product, status) == (self.owner, self.of_product, self.status or "")
                moment = _moment(created_at)
                sound = moment is not None and is_reservation_id(reservation_id)
                return ReservationPosition(moment, reservation_id) if ours and sound and moment else None
        return None


@dataclass(frozen=True, slots=True)
class ChangesQuery:
    """Some events of the change feed: after which cursor, of which types, how many, and how long to wait for the first."""

    after: Cursor | None
    types: frozenset[EventType]
    limit: int
    wait_s: int


def changes_query(request: Request) -> ChangesQuery:
    """Read the query of GET /changes. A stream that is resumed sends its cursor in Last-Event-ID.

    Raises:
        Problem: 422, a parameter is unknown, repeated or has no legal value.
    """
    pairs = _pairs_of(request)
    values, known = dict(pairs), ("after", "limit", "wait", "types")
    errors = _name_errors(pairs, known, known, ", ".join(known))
    limit, wait = values.get("limit", str(DEFAULT_CHANGES)), values.get("wait", "0")
    if not (_LIMIT.fullmatch(limit) and int(limit) <= MAX_CHANGES):
        errors.append(FieldError(f"must be an integer from 1 to {MAX_CHANGES}", parameter="limit"))
    if not (_WAIT.fullmatch(wait) and int(wait) <= MAX_WAIT_S):
        errors.append(FieldError(f"must be an integer from 0 to {MAX_WAIT_S}, in seconds", parameter="wait"))
    names = values.get("types", ",".join(EventType)).split(",")
    types = frozenset(kind for kind in EventType if kind in names)
    if len(types) != len(names):
        errors.append(FieldError(f"must be some of {', '.join(EventType)}, separated by commas", parameter="types"))
    text = request.headers.get("last-event-id") or values.get("after")
    after = None if text is None else _feed_cursor(text, types)
    if text is not None and after is None:
        errors.append(FieldError("must be `next` of an answer, and within a page of the same `types`", parameter="after"))
    _refuse(errors)
    return ChangesQuery(after, types, int(limit), int(wait))


def feed_cursor(cursor: Cursor) -> str:
    """Return a cursor of the change feed as clients get it."""
    if cursor.position is None:
        return _pack(_FEED_FORM, cursor.epoch, cursor.number)
    place = cursor.position
    return _pack(
        _FEED_FORM, cursor.epoch, cursor.number, cursor.upto, place.id, place.version, place.line, *sorted(cursor.types)
    )


def _feed_cursor(text: str, types: frozenset[EventType]) -> Cursor | None:
    """Return the cursor that a client sent, or ``None`` if it is none, or stands within a page of other types."""
    match _unpack(text, _FEED_FORM):
        case [str(epoch), int(number)] if 0 < number <= _MAX_VERSION and epoch.isascii():
            return Cursor(epoch, number)
        case [str(epoch), int(number), int(upto), str(product_id), int(version), int(line), *names]:
            sound = 0 < number < upto <= _MAX_VERSION and 1 <= version <= _MAX_VERSION and RESERVATION_LINE <= line <= _MAX_LINE
            if sound and epoch.isascii() and is_product_id(product_id) and names == sorted(types):
                return Cursor(epoch, number, upto, FeedPosition(product_id, version, line), types)
    return None


def product_query(request: Request) -> ProductsById | ProductPage:
    """Read the query of GET /products.

    Raises:
        Problem: 422, a parameter is unknown, repeated, not allowed with another one, or has no legal value.
    """
    pairs = _pairs_of(request)
    names = {name for name, _ in pairs}
    errors = _name_errors(pairs, ("id", *_FILTERS), _FILTERS, "id, or limit, after, q, below_reorder_point and uncovered")
    query: ProductsById | ProductPage
    if "id" in names:
        query, more = _products_by_id([value for name, value in pairs if name == "id"], names)
    else:
        query, more = _product_page(dict(pairs))
    _refuse([*errors, *more])
    return query


def product_ledger(request: Request, product_id: str) -> LedgerQuery:
    """Read the query of one product's ledger.

    Raises:
        Problem: 422, a parameter is unknown, repeated or has no legal value.
    """
    values, errors = _ledger_values(request, ("limit", "after"))
    return _ledger_query(_PRODUCT_LEDGER_FORM, product_id, values, errors, "product")


def reference_ledger(request: Request) -> LedgerQuery:
    """Read the query of one reference's ledger.

    Raises:
        Problem: 422, as above, or no reference was sent.
    """
    values, errors = _ledger_values(request, ("reference", "limit", "after"))
    reference = values.get("reference")
    if reference is None:
        errors.append(
            FieldError("is required: one product's movements are at /products/{id}/stock/movements", parameter="reference")
        )
    elif not 1 <= len(reference) <= MAX_REFERENCE or UNSTORABLE.search(reference):
        errors.append(_text_error("reference", MAX_REFERENCE))
    return _ledger_query(_REFERENCE_LEDGER_FORM, reference or "", values, errors, "reference")


def reservation_query(request: Request) -> ReservationQuery:
    """Read the query of GET /reservations.

    Raises:
        Problem: 422, as above, or neither a reference nor a product was sent, or both.
    """
    values, errors = _ledger_values(request, ("reference", "product_id", "status", "limit", "after"))
    reference, product_id, status = (values.get(name) for name in ("reference", "product_id", "status"))
    if (reference is None) == (product_id is None):
        errors.append(FieldError("is required, or product_id; only one of them may be sent", parameter="reference"))
    if reference is not None and (not 1 <= len(reference) <= MAX_REFERENCE or UNSTORABLE.search(reference)):
        errors.append(_text_error("reference", MAX_REFERENCE))
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
    _refuse(errors)
    return query


def samples_seen(request: Request) -> int:
    """Read the query of the dashboard's data: how many samples its reader has seen.

    Raises:
        Problem: 422, a parameter is unknown, repeated or has no legal value.
    """
    pairs = _pairs_of(request)
    text = dict(pairs).get("after", "0")
    errors = _name_errors(pairs, ("after",), ("after",), "after")
    if not (_COUNT.fullmatch(text) and int(text) <= MAX_SAMPLES):
        errors.append(FieldError(f"must be an integer from 0 to {MAX_SAMPLES}", parameter="after"))
    _refuse(errors)
    return int(text)


def refuse_parameters(request: Request) -> None:
    """Check that a write has no query: a parameter such as ``dry_run`` that is ignored would be a promise that is broken.

    Raises:
        Problem: 422.
    """
    if request.scope["query_string"]:
        names = sorted({name for name, _ in _pairs_of(request)})[:MAX_IDS]
        rule = "is not a parameter of this operation, which takes none"
        _refuse([FieldError(rule, parameter=name[:_MAX_SHOWN]) for name in names])


def read_limit(text: str | None) -> int | None:
    """Return the query's limit, the default if none was sent, or ``None`` if it is not legal."""
    if text is None:
        return DEFAULT_LIMIT
    return int(text) if _LIMIT.fullmatch(text) and int(text) <= MAX_LIMIT else None


def _refuse(errors: Sequence[FieldError]) -> None:
    if errors:
        raise invalid(errors)


def _pairs_of(request: Request) -> list[tuple[str, str]]:
    """Return the query's parameters in the order sent. Raises ``Problem`` (422) if there are more than any request needs."""
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        raise invalid([FieldError(f"must have at most {MAX_PARAMETERS} parameters", parameter="query")])
    return request.query_params.multi_items()


def _name_errors(
    pairs: Sequence[tuple[str, str]], known: Collection[str], single: Sequence[str], listed: str
) -> list[FieldError]:
    """Return the errors in the names: unknown ones, and repeated ones that may be sent only once."""
    times = Counter(name for name, _ in pairs)
    unknown = [name for name in sorted(times) if name not in known]
    rule = f"is not a parameter of this operation; it takes {listed}"
    errors = [FieldError(rule, parameter=name[:_MAX_SHOWN]) for name in unknown]
    return errors + [FieldError("may be sent only once", parameter=name) for name in single if times[name] > 1]


def _limit_errors(limit: int | None) -> list[FieldError]:
    return [] if limit else [FieldError(f"must be an integer from 1 to {MAX_LIMIT}", parameter="limit")]


def _text_error(name: str, most: int) -> FieldError:
    return FieldError(f"must have 1 to {most} characters, none of them a control character", parameter=name)


def _products_by_id(ids: Sequence[str], names: set[str]) -> tuple[ProductsById, list[FieldError]]:
    rule = "cannot be combined with id: read many products, or list them"
    errors = [FieldError(rule, parameter=name) for name in sorted(names - {"id"})]
    if len(ids) > MAX_IDS:
        errors.append(FieldError(f"may be sent at most {MAX_IDS} times; {len(ids)} were sent", parameter="id"))
    errors += [
        FieldError(f"{ID_RULE}; number {index + 1}, {product_id[:_MAX_SHOWN]!a}, is not", parameter="id")
        for index, product_id in enumerate(ids[:MAX_IDS])
        if not is_product_id(product_id)
    ]
    return ProductsById(tuple(dict.fromkeys(ids))), errors


def _product_page(values: dict[str, str]) -> tuple[ProductPage, list[FieldError]]:
    prefix, below, cursor = values.get("q"), values.get("below_reorder_point"), values.get("after")
    uncovered = values.get("uncovered")
    prefix = prefix if prefix is None else normalize("NFC", prefix)  # as names are stored
    limit = read_limit(values.get("limit"))
    errors = _limit_errors(limit)
    if prefix is not None and not (1 <= len(prefix) <= MAX_NAME_LENGTH and not UNSTORABLE.search(prefix)):
        errors.append(_text_error("q", MAX_NAME_LENGTH))
    errors += [
        FieldError("must be true or false", parameter=name)
        for name, value in (("below_reorder_point", below), ("uncovered", uncovered))
        if value not in {None, "true", "false"}
    ]
    if below == uncovered == "true":
        errors.append(FieldError("cannot be combined with below_reorder_point", parameter="uncovered"))
    page = ProductPage(limit or DEFAULT_LIMIT, prefix or "", below == "true", uncovered=uncovered == "true")
    if cursor is not None:
        after = page.position(cursor)
        if after is None:
            errors.append(FieldError("must be `next` of a page that was made with the same filters", parameter="after"))
        page = replace(page, after=after)
    return page, errors


def _ledger_values(request: Request, known: Sequence[str]) -> tuple[dict[str, str], list[FieldError]]:
    """Return the query's values, and the errors in their names and in the limit."""
    pairs = _pairs_of(request)
    values = dict(pairs)
    return values, _name_errors(pairs, known, known, ", ".join(known)) + _limit_errors(read_limit(values.get("limit")))


def _ledger_query(
    form: int, owner: str, values: Mapping[str, str], errors: Sequence[FieldError], owner_kind: str
) -> LedgerQuery:
    """Return the page that the values describe. Raises ``Problem`` (422) with ``errors`` and the error of the cursor."""
    cursor = values.get("after")
    after = None if cursor is None else _ledger_position(cursor, form, owner)
    if cursor is not None and after is None:
        errors = [*errors, FieldError(f"must be `next` of a page of this {owner_kind}'s movements", parameter="after")]
    _refuse(errors)
    return LedgerQuery(form, owner, read_limit(values.get("limit")) or DEFAULT_LIMIT, after)


def _ledger_position(cursor: str, form: int, owner: str) -> LedgerPosition | None:
    """Return the position in a cursor, or ``None`` if it is not a cursor or belongs to another ``owner``.

    The owner is the product or the reference.
    """
    # A cursor that somebody made up may hold any JSON, and values that the database cannot take must not reach it.
    parts = _unpack(cursor, form)
    if form == _PRODUCT_LEDGER_FORM:
        parts = [*parts[:1], *parts]
    match parts:
        case [str(found), str(product_id), version, line, str(created_at)]:
            pass
        case _:
            return None
    if found != owner or type(version) is not int or type(line) is not int or not is_product_id(product_id):
        return None
    moment = _moment(created_at)
    if not (moment and 1 <= version <= _MAX_VERSION and 0 <= line <= _MAX_LINE):
        return None
    return LedgerPosition(product_id, version, line, moment)


def _moment(text: str) -> datetime | None:
    """Return the moment that ``timestamp`` wrote so, or ``None`` if it wrote none so."""
    try:
        moment = datetime.fromisoformat(text)
        return moment if timestamp(moment) == text else None
    except (ValueError, OverflowError):
        return None


def _pack(form: int, *parts: str | int) -> str:
    text = json.dumps([form, *parts], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _unpack(cursor: str, form: int) -> Sequence[Any]:
    """Return the parts of a cursor of this form, which may be any JSON values; no parts if it is no such cursor."""
    if not _CURSOR.fullmatch(cursor):
        return ()
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return ()
    match parts:
        case [int(found), *rest] if found == form:
            return rest
    return ()


def _next_page(path: str, query: Mapping[str, str | int | None]) -> NextPage:
    """Return the page of ``path`` at the cursor ``after``. A parameter that is ``None`` is left out."""
    given = {name: value for name, value in query.items() if value is not None}
    return NextPage(str(given["after"]), f'<{path}?{urlencode(given)}>; rel="next"')

"""The query of the change feed, and its cursors."""

import re
from dataclasses import dataclass

from fastapi import Request

from app.api.problems import FieldError
from app.api.query_parts import FEED_FORM, LIMIT_FORM, MAX_LINE, MAX_VERSION, name_errors, pack, pairs_of, refuse, unpack
from app.feed.events import RESERVATION_LINE, Cursor, EventType, Position
from app.products.product import is_product_id

MAX_CHANGES = 1_000
DEFAULT_CHANGES = 100
MAX_WAIT_S = 30
_WAIT = re.compile("[0-9]{1,2}")


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
    pairs = pairs_of(request)
    values, known = dict(pairs), ("after", "limit", "wait", "types")
    errors = name_errors(pairs, known, known, ", ".join(known))
    limit, wait = values.get("limit", str(DEFAULT_CHANGES)), values.get("wait", "0")
    if not (LIMIT_FORM.fullmatch(limit) and int(limit) <= MAX_CHANGES):
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
    refuse(errors)
    return ChangesQuery(after, types, int(limit), int(wait))


def feed_cursor(cursor: Cursor) -> str:
    """Return a cursor of the change feed as clients get it."""
    if cursor.position is None:
        return pack(FEED_FORM, cursor.epoch, cursor.number)
    place = cursor.position
    return pack(FEED_FORM, cursor.epoch, cursor.number, cursor.upto, place.id, place.version, place.line, *sorted(cursor.types))


def _feed_cursor(text: str, types: frozenset[EventType]) -> Cursor | None:
    """Return the cursor that a client sent, or ``None`` if it is none, or stands within a page of other types."""
    match unpack(text, FEED_FORM):
        case [str(epoch), int(number)] if 0 < number <= MAX_VERSION and epoch.isascii():
            return Cursor(epoch, number)
        case [str(epoch), int(number), int(upto), str(product_id), int(version), int(line), *names]:
            sound = 0 < number < upto <= MAX_VERSION and 1 <= version <= MAX_VERSION and RESERVATION_LINE <= line <= MAX_LINE
            if sound and epoch.isascii() and is_product_id(product_id) and names == sorted(types):
                return Cursor(epoch, number, upto, Position(product_id, version, line), types)
    return None

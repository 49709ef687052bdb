"""The query of GET /products: which of its two forms it is, and the cursors that carry a reader from page to page."""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Request

from app.api.models import ID_RULE, UNSTORABLE
from app.api.problems import Fault, invalid
from app.products.product import MAX_NAME_LENGTH, Position, is_product_id

MAX_IDS = 250
MAX_LIMIT = 250
DEFAULT_LIMIT = 50
_LIMIT = re.compile("[1-9][0-9]{0,2}")
_CURSOR = re.compile("[A-Za-z0-9_-]{1,8192}")
_FORM = 1
"""The number of the cursors' form; a cursor of another form is refused rather than misread."""
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Named:
    """Products by id, in the order first sent, each once."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of the list."""

    limit: int
    prefix: str
    after: Position | None


def encode_cursor(position: Position, prefix: str) -> str:
    """Write where a page ended, bound to the filter that made it."""
    text = json.dumps([_FORM, prefix, position.id, position.name_key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str, prefix: str) -> Position | None:
    """Read a cursor; ``None`` when it is none of ours or belongs to another filter."""
    if not _CURSOR.fullmatch(cursor):
        return None
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    match parts:
        case [int(form), str(made_for), str(product_id), str(name_key)]:
            ours = form == _FORM and made_for == prefix and is_product_id(product_id)
            sound = not UNSTORABLE.search(name_key) and (bool(prefix) or not name_key)
            return Position(product_id, name_key) if ours and sound else None
    return None


def next_link(limit: int | None, prefix: str, cursor: str) -> str:
    """Write the Link header to the next page, with the filters of this one."""
    query = {"limit": limit, "q": prefix or None, "after": cursor}
    return f'</products?{urlencode({k: v for k, v in query.items() if v is not None})}>; rel="next"'


def _named(ids: Sequence[str], names: set[str]) -> tuple[Named, list[Fault]]:
    faults = [
        Fault("cannot be combined with id: read many products, or list them", parameter=name) for name in sorted(names - {"id"})
    ]
    if len(ids) > MAX_IDS:
        faults.append(Fault(f"may be sent at most {MAX_IDS} times; {len(ids)} were sent", parameter="id"))
    faults += [
        Fault(f"{ID_RULE}; number {index + 1}, {product_id[:_SHOWN]!a}, is not", parameter="id")
        for index, product_id in enumerate(ids[:MAX_IDS])
        if not is_product_id(product_id)
    ]
    return Named(tuple(dict.fromkeys(ids))), faults


def _listed(values: dict[str, str]) -> tuple[Listed, list[Fault]]:
    faults = []
    limit, prefix, cursor = values.get("limit"), values.get("q"), values.get("after")
    if limit is not None and not (_LIMIT.fullmatch(limit) and int(limit) <= MAX_LIMIT):
        faults.append(Fault(f"must be an integer from 1 to {MAX_LIMIT}", parameter="limit"))
    if prefix is not None and not (1 <= len(prefix) <= MAX_NAME_LENGTH and not UNSTORABLE.search(prefix)):
        faults.append(Fault(f"must have 1 to {MAX_NAME_LENGTH} characters, none of them a control character", parameter="q"))
    after = None
    if cursor is not None:
        after = decode_cursor(cursor, prefix or "")
        if after is None:
            faults.append(Fault("must be `next` of a page that was made with the same q", parameter="after"))
    number = int(limit) if limit is not None and not faults else DEFAULT_LIMIT
    return Listed(number, prefix or "", after), faults


async def product_query(request: Request) -> Named | Listed:
    """Read the query of GET /products.

    Raises:
        Problem: 422, a parameter is unknown, repeated, of the other form, or has no legal value.
    """
    pairs = request.query_params.multi_items()
    names = {name for name, _ in pairs}
    faults = [
        Fault("is not a parameter of this operation; it takes id, or limit, after and q", parameter=name[:_SHOWN])
        for name in sorted(names - {"id", "limit", "after", "q"})
    ]
    times = Counter(name for name, _ in pairs)
    faults += [Fault("may be sent only once", parameter=name) for name in ("limit", "after", "q") if times[name] > 1]
    query: Named | Listed
    if "id" in names:
        query, more = _named([value for name, value in pairs if name == "id"], names)
    else:
        query, more = _listed(dict(pairs))
    faults += more
    if faults:
        raise invalid(faults)
    return query


ProductQuery = Annotated[Named | Listed, Depends(product_query)]

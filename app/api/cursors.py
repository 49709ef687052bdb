"""Cursors: where a page ended, as text that a client hands back unread.

A cursor begins with the number of its form and the filters of its list; one of another form or list is refused rather than
misread.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import Request

from app.api.problems import Fault, invalid

MAX_LIMIT = 250
DEFAULT_LIMIT = 50
LIMIT_RULE = f"must be an integer from 1 to {MAX_LIMIT}"
MAX_PARAMETERS = 1_000
_LIMIT = re.compile("[1-9][0-9]{0,2}")
_CURSOR = re.compile("[A-Za-z0-9_-]{1,8192}")


def pack(form: int, *parts: str | int) -> str:
    """Write a cursor."""
    text = json.dumps([form, *parts], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def unpack(cursor: str, form: int) -> Sequence[Any]:
    """Read the parts of a cursor of this form; none when it is no such cursor. What they hold is the reader's to check."""
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


def pairs_of(request: Request) -> list[tuple[str, str]]:
    """Read the query's parameters in the order sent.

    Raises:
        Problem: 422, there are more than any request takes.
    """
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        raise invalid([Fault(f"must have at most {MAX_PARAMETERS} parameters", parameter="query")])
    return request.query_params.multi_items()


def read_limit(text: str | None) -> int | None:
    """Read the query's limit, or the default of one that was not sent; ``None`` when it breaks the rule."""
    if text is None:
        return DEFAULT_LIMIT
    return int(text) if _LIMIT.fullmatch(text) and int(text) <= MAX_LIMIT else None


def next_link(path: str, query: Mapping[str, str | int | None]) -> str:
    """Write the Link header to the next page; what is ``None`` in its query is left out."""
    given = {name: value for name, value in query.items() if value is not None}
    return f'<{path}?{urlencode(given)}>; rel="next"'

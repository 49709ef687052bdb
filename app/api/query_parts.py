"""What the queries of all lists have in common: names, limits, errors, and the form of cursors.

A cursor is opaque to clients. It begins with the number of its form and the filters of its list, so that a cursor of another
form or list is refused, not misread.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import Request

from app.api.problems import FieldError, invalid
from app.products.payload import timestamp

MAX_LIMIT = 250
MAX_IDS = 250
MAX_SAMPLES = 10**12
DEFAULT_LIMIT = 50
MAX_PARAMETERS = 1_000
LIST_FORM, PRODUCT_LEDGER_FORM, REFERENCE_LEDGER_FORM, FEED_FORM, RESERVATIONS_FORM = 2, 3, 4, 5, 6
MAX_VERSION = 2**63 - 1
MAX_LINE = 2**31 - 1
MAX_SHOWN = 80
LIMIT_FORM = re.compile("[1-9][0-9]{0,3}")
CURSOR_PATTERN = "^[A-Za-z0-9_-]{1,8192}$"
_CURSOR = re.compile(CURSOR_PATTERN)


@dataclass(frozen=True, slots=True)
class NextPage:
    """The cursor of the next page, which ``after`` takes, and the Link header."""

    cursor: str
    link: str


def read_limit(text: str | None) -> int | None:
    """Return the query's limit, the default if none was sent, or ``None`` if it is not legal."""
    if text is None:
        return DEFAULT_LIMIT
    return int(text) if LIMIT_FORM.fullmatch(text) and int(text) <= MAX_LIMIT else None


def refuse(errors: Sequence[FieldError]) -> None:
    """Raise ``Problem`` (422) if there are errors."""
    if errors:
        raise invalid(errors)


def pairs_of(request: Request) -> list[tuple[str, str]]:
    """Return the query's parameters in the order sent. Raises ``Problem`` (422) if there are more than any request needs."""
    if request.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
        raise invalid([FieldError(f"must have at most {MAX_PARAMETERS} parameters", parameter="query")])
    return request.query_params.multi_items()


def name_errors(
    pairs: Sequence[tuple[str, str]], known: Collection[str], single: Sequence[str], listed: str
) -> list[FieldError]:
    """Return the errors in the names: unknown ones, and repeated ones that may be sent only once."""
    times = Counter(name for name, _ in pairs)
    unknown = [name for name in sorted(times) if name not in known]
    rule = f"is not a parameter of this operation; it takes {listed}"
    errors = [FieldError(rule, parameter=name[:MAX_SHOWN]) for name in unknown]
    return errors + [FieldError("may be sent only once", parameter=name) for name in single if times[name] > 1]


def limit_errors(limit: int | None) -> list[FieldError]:
    """Return the error in a limit that ``read_limit`` did not accept."""
    return [] if limit else [FieldError(f"must be an integer from 1 to {MAX_LIMIT}", parameter="limit")]


def text_error(name: str, most: int) -> FieldError:
    """Return the error in a text of a wrong length or with a control character."""
    return FieldError(f"must have 1 to {most} characters, none of them a control character", parameter=name)


def refuse_parameters(request: Request) -> None:
    """Check that a write has no query: a parameter such as ``dry_run`` that is ignored would be a promise that is broken.

    Raises:
        Problem: 422.
    """
    if request.scope["query_string"]:
        names = sorted({name for name, _ in pairs_of(request)})[:MAX_IDS]
        rule = "is not a parameter of this operation, which takes none"
        refuse([FieldError(rule, parameter=name[:MAX_SHOWN]) for name in names])


def moment_of(text: str) -> datetime | None:
    """Return the moment that ``timestamp`` wrote so, or ``None`` if it wrote none so."""
    try:
        moment = datetime.fromisoformat(text)
        return moment if timestamp(moment) == text else None
    except (ValueError, OverflowError):
        return None


def pack(form: int, *parts: str | int) -> str:
    """Return a cursor of this form."""
    text = json.dumps([form, *parts], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def unpack(cursor: str, form: int) -> Sequence[Any]:
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


def next_page_of(path: str, query: Mapping[str, str | int | None]) -> NextPage:
    """Return the page of ``path`` at the cursor ``after``. A parameter that is ``None`` is left out."""
    given = {name: value for name, value in query.items() if value is not None}
    return NextPage(str(given["after"]), f'<{path}?{urlencode(given)}>; rel="next"')

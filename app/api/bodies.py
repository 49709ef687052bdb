"""Request bodies: read within the limit, parsed as strict JSON, and checked against a model."""

import asyncio
import json
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from app.api.context import larder_of
from app.api.exchange import take_body
from app.api.fields import fields_in
from app.api.models import RequestModel, Rows
from app.api.problems import MAX_ERRORS, FieldError, Problem, invalid

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
MAX_VALUES = 16_384
"""Most members and items of a body, on all levels together. A batch of 1,000 whole products has 11,000."""
_SLICE = 65_536
_MARKS = (b",", b"[", b"{")
"""The characters that precede values: each value except the outermost follows a comma or an opening bracket."""
_REST_OF_ESCAPE = re.compile(rb"\\*.?", re.DOTALL)
_MAX_MEMBERS = 64
_LARGE = 32_768
_MAX_DIGITS = 20
_SHOWN_NAME = 64
_WHOLE = "must be an integer, written without quotes, fraction or exponent"
_SENTENCES = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "string_type": "must be a string",
    "invalid_key": "has a member whose name contains a surrogate, which is half a character",
    "list_type": "must be an array",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "model_type": "must be an object",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}
_CODINGS = frozenset({b"content-encoding", b"transfer-encoding"})
_PLAIN = JSON.encode()
"""The declaration of almost every body."""
_CHARSET = re.compile(r'charset[ \t]*=[ \t]*"?([^"; \t]*)"?', re.IGNORECASE)

Body = TypeVar("Body", bound=RequestModel | None)
Model = TypeVar("Model", bound=RequestModel)


_EXCESS = object()
"""The value of a body that was not parsed because it has too many values."""


class Json(NamedTuple):
    """A parsed body, and its bytes as they were sent."""

    value: object
    content: bytes


def _too_large(limit: int) -> Problem:
    return Problem(
        "body-too-large",
        f"The body has more than {limit} bytes. Nothing was changed. Send less at once.",
        members={"limit_bytes": limit},
    )


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body. Reading stops as soon as more than ``limit`` bytes are announced or read.

    Raises:
        Problem: 413.
        ClientDisconnect: the client left before it had sent everything.
    """
    announced = next((value for name, value in request.scope["headers"] if name == b"content-length"), b"")
    if announced.isdigit() and (len(announced) > _MAX_DIGITS or int(announced) > limit):
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def check_media_type(request: Request, accepted: Sequence[str]) -> None:
    """Check that the body is declared as one of ``accepted``, in UTF-8 and not compressed.

    Raises:
        Problem: 415, with what would be accepted in ``Accept`` (``Accept-Patch`` for PATCH).
    """
    fields = fields_in(request.scope)
    if JSON in accepted and fields.get(b"content-type") == _PLAIN and _CODINGS.isdisjoint(fields):
        return
    declared = ",".join(request.headers.getlist("Content-Type"))  # two of them name no media type
    media_type, *parameters = declared.split(";")
    charsets = [found[1].lower() for parameter in parameters if (found := _CHARSET.fullmatch(parameter.strip(" \t")))]
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    transfer = request.headers.get("Transfer-Encoding", "chunked").strip().lower()
    codings = (coding, transfer) == ("identity", "chunked")
    if media_type.strip().lower() in accepted and set(charsets) <= {"utf-8", "utf8"} and codings:
        return
    name = "Accept-Patch" if request.method == "PATCH" else "Accept"
    raise Problem(
        "unsupported-media-type",
        f"The body must be declared as {' or '.join(accepted)}, in UTF-8 and without Content-Encoding. Nothing was changed."
        f" Send it again with the header Content-Type: {accepted[0]}.",
        headers={name: ", ".join(accepted), "Accept-Encoding": "identity"},
    )


def _integer(text: str) -> int:
    # Python refuses to convert thousands of digits, and a number this long is out of every range anyway.
    return int(text) if len(text) <= _MAX_DIGITS else (-1 if text.startswith("-") else 1) * 10**_MAX_DIGITS


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


_BLANKS = " \t\n\r"
_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_integer, object_pairs_hook=_unique)


def _decode(text: str) -> object:
    """Return the value of a text, as ``decode`` does, which looks for white space on both sides first. Few texts have any."""
    if text[:1] not in _BLANKS:
        value, end = _DECODER.raw_decode(text)
        if not text[end:].strip(_BLANKS):
            return value
    return _DECODER.decode(text)


def parse_json(body: bytes) -> object:
    """Parse one JSON text.

    Raises:
        Problem: 400. The text must follow RFC 8259 and RFC 7493 (I-JSON): no NaN, no member twice, only UTF-8.
    """
    try:
        return _decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        cause = f"it is not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        mark = "it begins with a byte order mark (the bytes EF BB BF), which RFC 8259 forbids"
        cause = mark if body.startswith(BOM_UTF8) else f"{error.msg} at line {error.lineno}, column {error.colno}"
    except RecursionError:
        cause = "it is nested too deeply"
    except ValueError as error:
        cause = str(error)
    raise Problem("malformed-json", f"The body cannot be read as JSON: {cause}. Nothing was changed. Send one JSON object.")


async def json_body(request: Request, media_types: Sequence[str] = (JSON,)) -> Json:
    """Read and parse a body declared as one of the media types.

    Raises:
        Problem: 413, 415, 400, in this order.
    """
    limit = larder_of(request).settings.body_limit_bytes
    if (body := take_body(request.receive)) is None:
        body = await read_body(request, limit)
    elif len(body) > limit:
        raise _too_large(limit)
    check_media_type(request, media_types)
    return Json(await _parse_large(request, body) if len(body) > _LARGE else parse_json(body), body)


async def _parse_large(request: Request, body: bytes) -> object:
    if await has_too_many_values(body):
        return _EXCESS  # refused later, with a 422, so that the order of errors holds
    # Large bodies are parsed one after another, and other requests are served between them. They are parsed in a thread,
    # because the parser calls back into Python and can be interrupted there.
    async with larder_of(request).large_bodies:
        return await asyncio.to_thread(parse_json, body)


def pointer(path: Sequence[str | int]) -> str:
    """Return a place in a body as a JSON pointer in its URI fragment form (RFC 6901, 6)."""
    tokens = (str(token)[:_SHOWN_NAME].replace("~", "~0").replace("/", "~1") for token in path)
    return "#" + "".join("/" + quote(token, safe="~", errors="surrogatepass") for token in tokens)


def _sentence(kind: str, message: str, context: dict[str, Any]) -> str:
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**context)
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def validate(model: type[Model], value: object, at: Sequence[str | int] = ()) -> Model | list[FieldError]:
    """Check ``value``, which is at the path ``at`` of a body. Return the model, or the errors."""
    if value is _EXCESS:
        return [
            FieldError(f"has more than {MAX_VALUES} values (members and items of all levels); no request needs so many", "#")
        ]
    if not isinstance(value, dict):
        return [FieldError("must be an object", pointer(at))]
    if len(value) > _MAX_MEMBERS:
        return [FieldError(f"must have at most {_MAX_MEMBERS} members", pointer(at))]
    try:
        # This is what ``model_validate`` calls after it has looked at its own parameters. The models themselves are strict.
        checked: Model = model.__pydantic_validator__.validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return [FieldError(_sentence(e["type"], e["msg"], e.get("ctx", {})), pointer([*at, *e["loc"]])) for e in found]
    return checked


def check(model: type[Model], value: object) -> Model:
    """Check a whole body.

    Raises:
        Problem: 422.
    """
    kind = model.rows  # a class of Pydantic looks an attribute up slowly
    if kind is not None and isinstance(value, dict) and isinstance(rows := value.get(kind.name), list):
        return _check_rows(model, kind, value, rows)
    checked = validate(model, value)
    if isinstance(checked, list):
        raise invalid(checked)
    return checked


def _check_rows(model: type[Model], kind: Rows, value: dict[str, object], rows: Sequence[object]) -> Model:
    wide = [isinstance(row, dict) and len(row) > _MAX_MEMBERS for row in rows[: kind.most]]
    narrowed = value
    if True in wide:
        narrowed = value | {kind.name: [None if large else row for large, row in zip(wide, rows, strict=False)]}
    checked = validate(model, narrowed)
    if not isinstance(checked, list):
        return checked
    faults: list[FieldError] = []
    for index, row in enumerate(rows[: kind.most]):
        found = validate(kind.model, row, (kind.name, index))
        faults += found if isinstance(found, list) else []
        if len(faults) > MAX_ERRORS:
            break
    raise invalid([*faults, *(fault for fault in checked if not fault.pointer.startswith(f"#/{kind.name}/"))])


async def has_too_many_values(body: bytes) -> bool:
    """Return whether a text has more than ``MAX_VALUES`` values. For a text that is not JSON, the result may be wrong.

    A body like ``[[],[],…]`` of 4 MiB has a million values, and no other request is served while it is parsed. No operation
    takes more than some thousand values. They are counted in slices, between which other requests are served.
    """
    if len(body) <= 2 * MAX_VALUES:
        return False
    marks = 0
    for start in range(0, len(body), _SLICE):
        marks += _marks(body[start : start + _SLICE])
        if marks > MAX_VALUES:  # those inside strings are counted, too
            return await _has_too_many_outside_strings(body)
        await asyncio.sleep(0)
    return False


def _marks(text: bytes) -> int:
    return sum(map(text.count, _MARKS))


async def _has_too_many_outside_strings(body: bytes) -> bool:
    marks = start = 0
    inside = False
    while start < len(body):
        end = start + _SLICE
        if body[end - 1 : end] == b"\\" and (rest := _REST_OF_ESCAPE.match(body, end)):
            end = rest.end()
        parts = body[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        marks += _marks(b"".join(parts[inside::2]))
        if marks > MAX_VALUES:
            return True
        inside ^= len(parts) % 2 == 0
        start = end
        await asyncio.sleep(0)
    return False

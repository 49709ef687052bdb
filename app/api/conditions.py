"""Request headers that decide what a request does.

They are preconditions (RFC 9110, 13), the freshness that a client asks for (RFC 9111, 5.2.1), and the idempotency key.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import Request

from app.api.fields import Headers
from app.api.problems import Problem
from app.buckets import BUCKETS
from app.products.product import ALWAYS, Precondition

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_SPACE = re.compile("[ \t]*")
# Each alternative consumes everything that it has inspected, so that a list is split in one pass.
_PART = re.compile(r'"(?:[^"\\]|\\.?)*"?|[^",]+|,')
_DIRECTIVE = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:=("(?:[^"\\]|\\.)*"|[^",\s]*))?')
MAX_TAGS_LENGTH = 8_192
"""Most characters of If-Match or If-None-Match, enough for about four hundred of the service's tags."""
_STALE_MAX_S = 31_536_000
_KEY = "Idempotency-Key"
MAX_KEY_LENGTH = 255
_BARE_KEY = re.compile(r"[!#-~][ -~]*")
_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BUCKET = re.compile(rb"[0-9]{1,4}")
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Tags:
    """The entity tags of one header: ``*`` (``anything``), or strong and weak opaque values."""

    anything: bool
    strong: frozenset[str]
    weak: frozenset[str]

    def matches_weakly(self, version: int) -> bool:
        """Compare as If-None-Match does: a weak tag of the version counts."""
        return self.anything or str(version) in self.strong or str(version) in self.weak

    def matches_strongly(self, version: int) -> bool:
        """Compare as If-Match does: a weak tag never counts."""
        return self.anything or str(version) in self.strong


@dataclass(frozen=True, slots=True)
class ReadConditions:
    """Preconditions of a read; ``None`` where the header was not sent."""

    if_match: Tags | None
    if_none_match: Tags | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """The freshness that a client requests.

    ``refresh`` reads PostgreSQL. While PostgreSQL cannot be reached, a state that was proven at most ``stale_s`` seconds ago is
    accepted.
    """

    refresh: bool = False
    stale_s: int = 0


def malformed(name: str, detail: str) -> Problem:
    """Return the 400 for a header that cannot be understood."""
    return Problem("invalid-header", f"{name} {detail} Nothing was changed. Correct the header and send the request again.")


def entity_tags(request: Request, name: str) -> Tags | None:
    """Read If-Match or If-None-Match; ``None`` when it was not sent.

    Raises:
        Problem: 400, the header is neither ``*`` nor a list of entity tags with at least one tag.
    """
    lines = request.headers.getlist(name)
    if not lines:
        return None
    text = ",".join(lines).strip(" \t")
    if len(text) > MAX_TAGS_LENGTH:
        raise malformed(name, f"has more than {MAX_TAGS_LENGTH} characters.")
    if text == "*":
        return Tags(anything=True, strong=frozenset(), weak=frozenset())
    strong: set[str] = set()
    weak: set[str] = set()
    position = 0
    while position < len(text):
        if text[position] in " \t,":
            position += 1
            continue
        found = _TAG.match(text, position)
        if not found or (found.end() < len(text) and text[found.end()] not in " \t,"):
            raise malformed(name, 'is neither * nor a list of entity tags such as "7".')
        (weak if found[1] else strong).add(found[2])
        gap = _SPACE.match(text, found.end())
        position = gap.end() if gap else found.end()
        if position < len(text) and text[position] != ",":
            raise malformed(name, "has entity tags without a comma between them.")
    if not strong and not weak:
        raise malformed(name, "is empty.")
    return Tags(anything=False, strong=frozenset(strong), weak=frozenset(weak))


def read_conditions(request: Request) -> ReadConditions:
    """Read the preconditions of a GET."""
    return ReadConditions(entity_tags(request, "If-Match"), entity_tags(request, "If-None-Match"))


def write_condition(request: Request) -> Precondition:
    """Read the preconditions of a write to one product.

    Raises:
        Problem: 400, a header is malformed, or If-None-Match names tags instead of ``*``.
    """
    match = entity_tags(request, "If-Match")
    none_match = entity_tags(request, "If-None-Match")
    if none_match is not None and not none_match.anything:
        raise malformed("If-None-Match", "takes only * on a write, to create and not replace.")
    if match is None:
        return Precondition(create_only=True) if none_match else ALWAYS
    return Precondition(
        versions=None if match.anything else match.strong, any_version=match.anything, create_only=none_match is not None
    )


def if_match_condition(request: Request) -> Precondition:
    """Read the precondition of a write to something that must exist, where If-None-Match has no meaning.

    Raises:
        Problem: 400.
    """
    if "If-None-Match" in request.headers:
        raise malformed("If-None-Match", "has no meaning on this operation, which changes what exists.")
    return write_condition(request)


def refuse_conditions(request: Request) -> Precondition:
    """Refuse preconditions on an operation that is not about a single product; return the one that always holds.

    Raises:
        Problem: 400.
    """
    for name in ("If-Match", "If-None-Match"):
        if name in request.headers:
            raise malformed(name, "has no product to be compared with on this operation.")
    return ALWAYS


def idempotency_key(request: Request) -> str | None:
    """Read the key, bare or as a quoted string (RFC 8941, 3.3.3); ``None`` when none was sent.

    Raises:
        Problem: 400, the header is repeated, or its value is not a key.
    """
    lines = request.headers.getlist(_KEY)
    if not lines:
        return None
    if len(lines) > 1:
        raise malformed(_KEY, "was sent more than once.")
    text = lines[0].strip(" \t")
    if len(text) > 2 * MAX_KEY_LENGTH + 2:  # every character escaped, and the quotes
        raise malformed(_KEY, f"must have 1 to {MAX_KEY_LENGTH} characters.")
    if quoted := _QUOTED_KEY.fullmatch(text):
        key = _ESCAPED.sub(r"\1", quoted[1])
    elif _BARE_KEY.fullmatch(text):
        key = text
    else:
        raise malformed(_KEY, f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters, bare or as one quoted string.")
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise malformed(_KEY, f"must have 1 to {MAX_KEY_LENGTH} characters.")
    return key


def named_bucket(headers: Headers) -> int | None:
    """Return the bucket that ``Larder-Bucket`` names; ``None`` if there is no such header.

    Raises:
        Problem: 400, the header is repeated, or its value is no bucket's number.
    """
    values = [value for name, value in headers if name == b"larder-bucket"]
    if not values:
        return None
    if len(values) > 1 or not _BUCKET.fullmatch(values[0]) or int(values[0]) >= BUCKETS:
        raise malformed("Larder-Bucket", f"must be one number from 0 to {BUCKETS - 1}.")
    return int(values[0])


def freshness_of(request: Request) -> Freshness:
    """Return the freshness that Cache-Control requests. As in RFC 9111, unknown or invalid directives are ignored."""
    lines = request.headers.getlist("Cache-Control")
    if not lines:
        return Freshness()
    refresh = False
    stale_s = 0
    for directive in _directives(",".join(lines)):
        found = _DIRECTIVE.fullmatch(directive)
        if not found:
            continue
        name, value = found[1].lower(), (found[2] or "").strip('"')
        if name == "no-cache":
            refresh = True
        elif name == "stale-if-error" and re.fullmatch("[0-9]{1,10}", value):
            stale_s = min(int(value), _STALE_MAX_S)
    return Freshness(refresh, stale_s)


def _directives(text: str) -> Iterator[str]:
    """Split a list at its commas, except those within quotes."""
    parts: list[str] = []
    for part in _PART.findall(text):
        if part != ",":
            parts.append(part)
        elif parts:
            yield "".join(parts).strip(" \t")
            parts = []
    yield "".join(parts).strip(" \t")

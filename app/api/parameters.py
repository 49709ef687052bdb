"""The parameters and headers of requests, as the API's description has them."""

from typing import Any

from app.api import models
from app.api.changes_query import DEFAULT_CHANGES, MAX_CHANGES, MAX_WAIT_S
from app.api.query_parts import CURSOR_PATTERN, DEFAULT_LIMIT, MAX_IDS, MAX_LIMIT, MAX_SAMPLES
from app.feed.events import EventType
from app.products.product import ID_PATTERN, MAX_NAME_LENGTH
from app.products.reservation import Status


def _parameter(place: str, name: str, description: str, schema: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "description": description, "schema": schema} | more


_TEXT = {"type": "string"}
_CURSOR = {"type": "string", "pattern": CURSOR_PATTERN}
_TAG_PATTERN = '(W/)?"[!#-~]*"'
_TAGS = {"type": "string", "pattern": f"^(\\*|{_TAG_PATTERN}(, ?{_TAG_PATTERN})*)$"}
IF_MATCH = _parameter("header", "If-Match", 'go on only if the product is at one of these versions: `"7"`, or `*`', _TAGS)
CREATE_ONLY = _parameter(
    "header", "If-None-Match", "`*`: go on only if there is no such product", {"type": "string", "enum": ["*"]}
)
BUCKET = _parameter(
    "header",
    "Larder-Bucket",
    "the bucket, 0 to 1023, of the products, by which a router chooses one of several pairs of Larder and PostgreSQL. An id"
    " that the service makes is in this bucket.",
    {"type": "integer", "minimum": 0, "maximum": 1023},
)
PREFER = _parameter(
    "header",
    "Prefer",
    "`respond-async`, perhaps with `wait=N` seconds: the write may be answered with 202 before it is decided. It needs an"
    " Idempotency-Key. The service may ignore it.",
    _TEXT,
)
KEY = _parameter(
    "header",
    "Idempotency-Key",
    "do this once: for 24 hours, a repetition with the same key and the same content gets the first answer;"
    ' bare or as a quoted string, `"order-17"`',
    {"type": "string", "pattern": r'^([!#-~]([ -~]{0,253}[!-~])?|"([ !#-\[\]-~]|\\["\\]){1,255}")$'},
)
_CACHE_CONTROL = _parameter(
    "header",
    "Cache-Control",
    "`no-cache` reads PostgreSQL and renews the entry; `stale-if-error=N` accepts an answer flagged `detail=unverified`"
    " while PostgreSQL cannot be reached, up to N seconds after it was last proven current",
    _TEXT,
)
READ_HEADERS = [
    _parameter("header", "If-None-Match", "answer 304 if the product is at one of these versions", _TAGS),
    IF_MATCH,
    _CACHE_CONTROL,
]
_LIMIT = _parameter(
    "query",
    "limit",
    "most items on the page",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
)
_AFTER = _parameter("query", "after", "`next` of the page before, which had the same filters", _CURSOR)
MOVEMENT_PARAMETERS = [_LIMIT, _AFTER]
REFERENCE_PARAMETERS = [
    _parameter(
        "query",
        "reference",
        "what the requests named as their reference",
        {"type": "string", "minLength": 1, "maxLength": models.MAX_REFERENCE},
        required=True,
        example="order-17",
    ),
    *MOVEMENT_PARAMETERS,
]
RESERVATION_IF_MATCH = _parameter("header", "If-Match", "go on only if the reservation is at one of these versions", _TAGS)
RESERVATION_HEADERS = [
    _parameter("header", "If-None-Match", "answer 304 if the reservation is at one of these versions", _TAGS),
    RESERVATION_IF_MATCH,
]
RESERVATION_PARAMETERS = [
    _parameter(
        "query",
        "reference",
        "the reference that was given when they were made (`GET /stock/movements` finds that of a commit); either this or"
        " `product_id` is needed, and not both",
        {"type": "string", "minLength": 1, "maxLength": models.MAX_REFERENCE},
    ),
    _parameter(
        "query",
        "product_id",
        "the product of which they hold units now; either this or `reference` is needed, and not both",
        {"type": "string", "pattern": ID_PATTERN},
        example="mug-blue",
    ),
    _parameter("query", "status", "only those with this status", {"type": "string", "enum": list(Status)}),
    *MOVEMENT_PARAMETERS,
]
CHANGES_PARAMETERS = [
    _parameter("query", "after", "`next` of the answer before; without it the answer is the present cursor", _CURSOR),
    _parameter(
        "header",
        "Last-Event-ID",
        "what a client of a stream sends in place of `after` to go on with it; nothing, if it is empty",
        {"type": "string", "pattern": CURSOR_PATTERN.replace("{1,", "{0,")},
    ),
    _parameter(
        "query",
        "limit",
        "most events in the answer",
        {"type": "integer", "minimum": 1, "maximum": MAX_CHANGES, "default": DEFAULT_CHANGES},
    ),
    _parameter(
        "query",
        "wait",
        "seconds to wait for an event if there is none",
        {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
    ),
    _parameter(
        "query",
        "types",
        "the types of events, all by default",
        {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "enum": list(EventType)}},
        style="form",
        explode=False,
    ),
]
SAMPLES_PARAMETERS = [
    _parameter(
        "query",
        "after",
        "how many samples were seen: `samples.next` of the last answer",
        {"type": "integer", "minimum": 0, "maximum": MAX_SAMPLES, "default": 0},
    )
]
LIST_PARAMETERS = [
    _parameter(
        "query",
        "id",
        "the products to read; cannot be combined with the other parameters",
        {"type": "array", "maxItems": MAX_IDS, "items": {"type": "string", "pattern": ID_PATTERN}},
        style="form",
        explode=True,
    ),
    # Without a default, and so is the last one: a client that sends defaults could not send `id`.
    _parameter(
        "query",
        "limit",
        f"most items on the page; {DEFAULT_LIMIT} without it",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
    ),
    _AFTER,
    _parameter(
        "query", "q", "how the name begins, ignoring case", {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
    ),
    _parameter("query", "below_reorder_point", "true: only those with stock < reorder_point, by id", {"type": "boolean"}),
    _parameter(
        "query",
        "uncovered",
        "true: only those with reserved > stock, by id; not together with `below_reorder_point`",
        {"type": "boolean"},
    ),
    _CACHE_CONTROL,
]

"""The OpenAPI 3.1 description of the operations, with examples that can be tried on the demo catalogue.

``app.api.bodies``, not the framework, checks bodies, so their schemas are declared here from the same models.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.access.keys import Scope
from app.api import change_models, dashboard_models, models, reservation_models
from app.api.admission import Access
from app.api.bodies import JSON, MERGE_PATCH
from app.api.changes_query import DEFAULT_CHANGES, MAX_CHANGES, MAX_WAIT_S
from app.api.examples import MOVEMENT_EXAMPLE, PRODUCT_EXAMPLE, RESERVATION_EXAMPLE
from app.api.list_queries import MAX_IDS, MAX_SAMPLES
from app.api.problem_types import TYPES
from app.api.problems import MEDIA_TYPE
from app.api.query_parts import DEFAULT_LIMIT, MAX_LIMIT
from app.feed.events import EventType
from app.products.product import ID_PATTERN, MAX_NAME_LENGTH
from app.products.reservation import Status

_SCHEMAS = "#/components/schemas/"
_REQUESTS: Sequence[type[BaseModel]] = (
    models.NewProduct, models.WholeProduct, models.ProductPatch, models.StockCount, models.Batch,
    models.StockAdjustment, models.StockAdjustments, reservation_models.NewReservation, reservation_models.Extension,
    reservation_models.CommitRequest, reservation_models.ReleaseRequest,
)  # fmt: skip
_ANSWERS: Sequence[type[BaseModel]] = (
    models.Product, models.ProductList, models.ProductSet, models.BatchResults, models.ProblemDocument,
    models.Adjusted, models.AdjustedLines, models.MovementList, change_models.ChangeList,
    models.AcceptedWrite, models.WriteStatus, dashboard_models.DashboardData,
    reservation_models.Reservation, reservation_models.ReservationList,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Success:
    """A successful answer, with the names of its components and its headers."""

    description: str
    schemas: Sequence[str] = ()
    example: object = None
    media_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Return the OpenAPI response object."""
        response: dict[str, Any] = {"description": self.description}
        if self.headers:
            response["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in self.headers.items()
            }
        if self.schemas:
            references = [{"$ref": _SCHEMAS + name} for name in self.schemas]
            response["content"] = {
                self.media_type: {"schema": references[0] if len(references) == 1 else {"oneOf": references}}
            }
        elif self.media_type != JSON:
            response["content"] = {self.media_type: {"schema": {"type": "string"}}}
        if self.example is not None:
            response["content"][self.media_type]["example"] = self.example
        return response


_TAG = "the product's version, as a strong entity tag"
_STATUS = "how the cache served this (RFC 9211)"
_REPLAYED = {"Idempotent-Replayed": "`true`: a request with this key was answered before, and nothing was done now"}
PRODUCT = Success("The product", ("Product",), PRODUCT_EXAMPLE, headers={"ETag": _TAG} | _REPLAYED)
PRODUCT_READ = Success("The product", ("Product",), PRODUCT_EXAMPLE, headers={"ETag": _TAG, "Cache-Status": _STATUS})
PRODUCT_CREATED = Success(
    "The new product", ("Product",), PRODUCT_EXAMPLE, headers={"ETag": _TAG, "Location": "where it is"} | _REPLAYED
)
DELETED = Success("Deleted", headers=_REPLAYED)
ADJUSTED = Success(
    "The product, and its entry in the ledger",
    ("Adjusted",),
    {"product": PRODUCT_EXAMPLE, "movement": MOVEMENT_EXAMPLE},
    headers={"ETag": _TAG} | _REPLAYED,
)
ADJUSTED_LINES = Success(
    "The lines, in the order sent",
    ("AdjustedLines",),
    {"lines": [{"product_id": "mug-blue", "delta": -3, "stock": 40, "version": 7}]},
    headers=_REPLAYED,
)
MOVEMENTS = Success(
    "A page of the ledger, newest first",
    ("MovementList",),
    {"items": [MOVEMENT_EXAMPLE], "next": None},
    headers={"Cache-Status": _STATUS, "Link": "the next page"},
)
CHANGES = Success(
    "Events in order, or none",
    ("ChangeList",),
    {
        "items": [
            {"type": "product", "id": "mug-blue", "version": 7, "product": PRODUCT_EXAMPLE},
            {"type": "movement"} | MOVEMENT_EXAMPLE,
            {"type": "reservation", "id": RESERVATION_EXAMPLE["id"], "version": 1, "reservation": RESERVATION_EXAMPLE},
        ],
        "next": "WzUsIjcuMSIsMTdd",
        "more": False,
    },
)
NOT_MODIFIED = Success("The product is at a version that If-None-Match names", headers={"ETag": _TAG, "Cache-Status": _STATUS})
_RESERVATION_TAG = {"ETag": "the reservation's version, as a strong entity tag"}
RESERVATION = Success("The reservation", ("Reservation",), RESERVATION_EXAMPLE, headers=_RESERVATION_TAG | _REPLAYED)
RESERVATION_MADE = Success(
    "The new reservation",
    ("Reservation",),
    RESERVATION_EXAMPLE,
    headers=_RESERVATION_TAG | {"Location": "where it is"} | _REPLAYED,
)
RESERVATION_READ = Success(
    "The reservation", ("Reservation",), RESERVATION_EXAMPLE, headers=_RESERVATION_TAG | {"Cache-Status": _STATUS}
)
RESERVATION_NOT_MODIFIED = Success(
    "The reservation is at a version that If-None-Match names", headers=_RESERVATION_TAG | {"Cache-Status": _STATUS}
)
RESERVATIONS = Success(
    "A page of reservations, newest first",
    ("ReservationList",),
    {"items": [RESERVATION_EXAMPLE], "next": None},
    headers={"Cache-Status": _STATUS, "Link": "the next page"},
)
PRODUCTS = Success(
    "The requested products, or a page of the list",
    ("ProductSet", "ProductList"),
    headers={"Cache-Status": _STATUS, "Link": "the next page"},
)
BATCH_RESULTS = Success("A result for each item, in the order sent", ("BatchResults",), headers=_REPLAYED)
WRITE_PROBLEMS = (
    "malformed-json", "invalid-header", "body-too-large", "unsupported-media-type", "invalid-request",
    "idempotency-key-reused", "request-in-progress", "overloaded", "database-unavailable", "outcome-unknown", "internal-error",
)  # fmt: skip
"""The problems that every write with a body may return."""
ACCEPTED = Success(
    "The write is in the database and will be decided once; whether it succeeds is not known yet",
    ("AcceptedWrite",),
    {"key": "feed-17", "state": "queued"},
    headers={"Location": "its status", "Preference-Applied": "`respond-async`", "Retry-After": "seconds"},
)
WRITE_STATUS = Success(
    "What became of the write: `queued`, `done` or `failed`",
    ("WriteStatus",),
    {
        "key": "feed-17",
        "state": "done",
        "answer": {"status": 200, "etag": '"7"', "location": None, "body": PRODUCT_EXAMPLE},
        "reason": None,
    },
    headers={"Retry-After": "seconds, if it is queued"},
)
DASHBOARD = Success("The state of the service, and the samples that were not seen", ("DashboardData",))
PROMETHEUS = Success("Prometheus text", media_type="text/plain")


def answers(successes: dict[int, Success], problems: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    """Describe all answers of an operation. ``problems`` are slugs. 405 is left out, because it is about other methods."""
    described: dict[int | str, dict[str, Any]] = {status: success.described() for status, success in successes.items()}
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for slug in problems:
        by_status[TYPES[slug].status].append(slug)
    for status, slugs in sorted(by_status.items()):
        kinds = [TYPES[slug] for slug in slugs]
        examples = {
            kind.slug: {"value": {"type": kind.path, "title": kind.title, "status": status, "detail": kind.meaning}}
            for kind in kinds
        }
        content = {MEDIA_TYPE: {"schema": {"$ref": _SCHEMAS + "ProblemDocument"}, "examples": examples}}
        described[status] = {"description": "; ".join(f"`{kind.slug}`: {kind.title}" for kind in kinds), "content": content}
        if any(kind.retry_after_s for kind in kinds):
            described[status]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return described


def _parameter(place: str, name: str, description: str, schema: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "description": description, "schema": schema} | more


_TEXT = {"type": "string"}
_TAG_PATTERN = '(W/)?"[!#-~]*"'
_TAGS = {"type": "string", "pattern": f"^(\\*|{_TAG_PATTERN}(, ?{_TAG_PATTERN})*)$"}
_IF_MATCH = _parameter("header", "If-Match", 'go on only if the product is at one of these versions: `"7"`, or `*`', _TAGS)
_CREATE_ONLY = _parameter(
    "header", "If-None-Match", "`*`: go on only if there is no such product", {"type": "string", "enum": ["*"]}
)
_PREFER = _parameter(
    "header",
    "Prefer",
    "`respond-async`, perhaps with `wait=N` seconds: the write may be answered with 202 before it is decided. It needs an"
    " Idempotency-Key. The service may ignore it.",
    _TEXT,
)
_KEY = _parameter(
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
    _IF_MATCH,
    _CACHE_CONTROL,
]
_LIMIT = _parameter(
    "query",
    "limit",
    "most items on the page",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
)
_AFTER = _parameter("query", "after", "`next` of the page before, which had the same filters", _TEXT)
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
RESERVATION_HEADERS = [
    _parameter("header", "If-None-Match", "answer 304 if the reservation is at one of these versions", _TAGS),
    _parameter("header", "If-Match", "go on only if the reservation is at one of these versions", _TAGS),
]
RESERVATION_PARAMETERS = [
    _parameter(
        "query",
        "reference",
        "what the requests named as their reference; this or `product_id` is needed",
        {"type": "string", "minLength": 1, "maxLength": models.MAX_REFERENCE},
    ),
    _parameter(
        "query",
        "product_id",
        "the product of which they hold units now; this or `reference` is needed",
        {"type": "string", "pattern": ID_PATTERN},
        example="mug-blue",
    ),
    _parameter("query", "status", "only those with this status", {"type": "string", "enum": list(Status)}),
    *MOVEMENT_PARAMETERS,
]
CHANGES_PARAMETERS = [
    _parameter("query", "after", "`next` of the answer before; without it the answer is the present cursor", _TEXT),
    _parameter("header", "Last-Event-ID", "what a client of a stream sends in place of `after` to go on with it", _TEXT),
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
    _LIMIT,
    _AFTER,
    _parameter(
        "query", "q", "how the name begins, ignoring case", {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
    ),
    _parameter(
        "query", "below_reorder_point", "true: those with stock < reorder_point, by id", {"type": "boolean", "default": False}
    ),
    _parameter(
        "query",
        "uncovered",
        "true: those with reserved > stock, by id; not together with `below_reorder_point`",
        {"type": "boolean", "default": False},
    ),
    _CACHE_CONTROL,
]


def body(model: str, example: object, *, conditional: bool = False) -> dict[str, Any]:
    """Describe a write: its idempotency key, its body, and its preconditions if it is ``conditional``."""
    parameters = [_IF_MATCH, _CREATE_ONLY, _KEY, _PREFER] if conditional else [_KEY, _PREFER]
    described: dict[str, Any] = {"parameters": parameters, "responses": {"202": ACCEPTED.described()}}
    if model:
        described["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": {"$ref": _SCHEMAS + model}, "example": example}},
        }
    return described


def reservation_body(model: str, example: object) -> dict[str, Any]:
    """Describe a write to one reservation."""
    described = body(model, example)
    if_match = _IF_MATCH | {"description": 'go on only if the reservation is at one of these versions: `"1"`'}
    return described | {"parameters": [if_match, *described["parameters"]]}


def patch_media(described: dict[str, Any]) -> dict[str, Any]:
    """Put the media type of merge patches before plain JSON."""
    content = described["requestBody"]["content"]
    described["requestBody"]["content"] = {MERGE_PATCH: content[JSON], JSON: content[JSON]}
    return described


_KEY_SCHEME = "key"


def complete(schema: dict[str, Any], needed: Mapping[str, Access | None], *, keys_optional: bool) -> None:
    """Add to FastAPI's description the components, HEAD of a product, and what each operation needs."""
    for methods in schema["paths"].values():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in {"product_id", "reservation_id"} and parameter["in"] == "path":
                    example = RESERVATION_EXAMPLE if parameter["name"] == "reservation_id" else PRODUCT_EXAMPLE
                    parameter["example"] = example["id"]  # what Swagger UI offers to send
            _name_access(operation, needed.get(operation["operationId"]), changes=method != "get", optional=keys_optional)
    schema.setdefault("components", {})["securitySchemes"] = {
        _KEY_SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "lrd_<id>_<secret>_<checksum>",
            "description": "A key that `larder keys create` has made. In open mode no key is needed. Scopes: "
            + "; ".join(f"`{scope}`: {scope.allows}" for scope in Scope)
            + ".",
        }
    }
    _, definitions = models_json_schema(
        [*((model, "validation") for model in _REQUESTS), *((model, "serialization") for model in _ANSWERS)],
        ref_template=_SCHEMAS + "{model}",
    )
    schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    path = schema["paths"]["/products/{product_id}"]
    path["head"] = _head_of(path["get"])


def _name_access(operation: dict[str, Any], access: Access | None, *, changes: bool, optional: bool) -> None:
    """Name the scope of an operation, and add the problems of admission to its answers."""
    slugs = ["host-not-allowed"]
    if access is not None:
        operation["security"] = [{_KEY_SCHEME: [access.scope.value]}, *([{}] if optional else [])]
        scope = f"Needs the scope `{access.scope}`."
        operation["description"] = f"{operation['description']} {scope}" if operation.get("description") else scope
        slugs += ["request-timeout", "quota-exceeded"] if changes else []
        slugs += ["unauthenticated", "forbidden", "rate-limited", "keys-unavailable", *(["cross-site"] if changes else [])]
    for status, described in answers({}, slugs).items():
        responses = operation["responses"]
        present = responses.setdefault(str(status), described)
        if present is not described:
            present["description"] += f"; {described['description']}"
            examples = present["content"][MEDIA_TYPE]["examples"]
            examples.update(described["content"][MEDIA_TYPE]["examples"])


def _head_of(get: dict[str, Any]) -> dict[str, Any]:
    without_bodies = {
        status: {name: value for name, value in response.items() if name != "content"}
        for status, response in get["responses"].items()
    }
    return {**get, "operationId": "headProduct", "summary": "Read a product's headers", "responses": without_bodies}

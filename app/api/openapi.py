"""The OpenAPI 3.1 description of the operations, with examples that can be tried on the demo catalogue.

``app.api.bodies``, not the framework, checks bodies, so their schemas are declared here from the same models.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.access.keys import Scope
from app.api import change_models, dashboard_models, models, reservation_models
from app.api.admission import Access
from app.api.bodies import JSON, MERGE_PATCH
from app.api.examples import MOVEMENT_EXAMPLE, PRODUCT_EXAMPLE, RESERVATION_EXAMPLE
from app.api.parameters import BUCKET, CREATE_ONLY, IF_MATCH, KEY, PREFER, RESERVATION_IF_MATCH
from app.api.problem_types import TYPES
from app.api.problems import MEDIA_TYPE

TAGS = [
    {"name": "products", "description": "Products, one or many at a time"},
    {"name": "stock", "description": "Counts and adjustments of stock, and the ledger of them"},
    {"name": "reservations", "description": "Units that are held for a while"},
    {"name": "changes", "description": "The feed of all changes"},
    {"name": "writes", "description": "What became of accepted writes"},
    {"name": "cache", "description": "Entries of the cache"},
    {"name": "operation", "description": "State and counters of the service"},
]
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


def changed_reservation(example: dict[str, object]) -> Success:
    """Return the description of a reservation after a request has changed it."""
    return Success("The reservation", ("Reservation",), example, headers=_RESERVATION_TAG | _REPLAYED)


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


def body(model: str, example: object, *, conditional: bool = False) -> dict[str, Any]:
    """Describe a write: its idempotency key, its body, and its preconditions if it is ``conditional``."""
    parameters = [IF_MATCH, CREATE_ONLY, KEY, PREFER] if conditional else [BUCKET, KEY, PREFER]
    described: dict[str, Any] = {"parameters": parameters, "responses": {"202": ACCEPTED.described()}}
    if model:
        described["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": {"$ref": _SCHEMAS + model}, "example": example}},
        }
    return described


def reservation_body(model: str, example: object, *, named: bool = True) -> dict[str, Any]:
    """Describe a write of reservations, which is never accepted for later; ``named``: of one that exists."""
    parameters = [RESERVATION_IF_MATCH, KEY] if named else [BUCKET, KEY]
    return {"parameters": parameters, "requestBody": body(model, example)["requestBody"]}


def patch_media(described: dict[str, Any]) -> dict[str, Any]:
    """Put the media type of merge patches before plain JSON."""
    content = described["requestBody"]["content"]
    described["requestBody"]["content"] = {MERGE_PATCH: content[JSON], JSON: content[JSON]}
    return described


_KEY_SCHEME = "key"


class Described(Protocol):
    """A route as the description needs it."""

    operation_id: str | None
    access: Access | None
    responses: dict[int | str, dict[str, Any]]


def complete(schema: dict[str, Any], routes: Iterable[Described], *, keys_optional: bool) -> None:
    """Add to FastAPI's description the components, HEAD of a product, and what each operation needs."""
    by_id = {route.operation_id: route for route in routes}
    for methods in schema["paths"].values():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in {"product_id", "reservation_id"} and parameter["in"] == "path":
                    example = RESERVATION_EXAMPLE if parameter["name"] == "reservation_id" else PRODUCT_EXAMPLE
                    parameter["example"] = example["id"]  # what Swagger UI offers to send
            if (route := by_id.get(operation["operationId"])) is not None:
                _restore_examples(operation, route.responses)
            access = None if route is None else route.access
            _name_access(operation, access, changes=method != "get", optional=keys_optional)
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


def _restore_examples(operation: dict[str, Any], responses: Mapping[int | str, dict[str, Any]]) -> None:
    """Put the examples of answers back as they were: FastAPI leaves out their members that are null."""
    for status, response in responses.items():
        for media_type, content in response.get("content", {}).items():
            if "example" in content:
                operation["responses"][str(status)]["content"][media_type]["example"] = content["example"]


def _name_access(operation: dict[str, Any], access: Access | None, *, changes: bool, optional: bool) -> None:
    """Name the scope of an operation, and add the problems of admission to its answers."""
    slugs = ["host-not-allowed"]
    operation["security"] = []
    if access is not None:
        operation["security"] = [{_KEY_SCHEME: [access.scope.value]}, *([{}] if optional else [])]
        scope = f"Needs the scope `{access.scope}`."
        operation["description"] = f"{operation['description']} {scope}" if operation.get("description") else scope
        slugs += ["not-here", "bucket-moving"]
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

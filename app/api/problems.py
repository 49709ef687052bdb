"""Every error answer of the service: one table of problem types, and one of the exceptions that lead to them.

An answer is an RFC 9457 problem; its ``type`` is a path on this service that explains the problem to a person. What is raised
here or below becomes HTTP in this file alone.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Mount

from app.cache import errors as cache
from app.postgres import errors as postgres
from app.products import errors as products
from app.products.product import MAX_INTEGER

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 50
"""Most faults that one answer lists; the rest would help nobody."""
_METHODS = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: its name in the ``type`` path, and what its page says."""

    slug: str
    status: int
    title: str
    meaning: str
    remedy: str
    retry_after_s: int | None = None
    """What ``Retry-After`` asks for; ``None`` when repeating the request does not help."""

    @property
    def path(self) -> str:
        """The path of the page that explains it."""
        return f"/problems/{self.slug}"


_TYPES = (
    ProblemType(
        "malformed-request", 400, "This is not an HTTP request",
        "What came over the connection cannot be read as HTTP/1.1. The connection was closed. Nothing was changed.",
        "Look at the request line, at the number and size of the header lines, and at how the body's length is announced.",
    ),
    ProblemType(
        "malformed-json", 400, "The body is not JSON",
        "The body is not one JSON text in UTF-8, or it is one that readers understand differently: a member named twice,"
        " NaN or Infinity, nesting beyond what is read. Nothing was changed.",
        "Send one JSON object, in UTF-8 and without a byte order mark, each member once.",
    ),
    ProblemType(
        "invalid-header", 400, "A header cannot be understood",
        "A header has another form than its specification gives it, or does not belong to this request. Because it could"
        " decide what the request does, it is not ignored. Nothing was changed.",
        'Send entity tags as they came in ETag, with their quotes (If-Match: "7"); on POST of a collection send'
        " neither If-Match nor If-None-Match. Send Idempotency-Key once, with 1 to 255 printable ASCII characters.",
    ),
    ProblemType(
        "route-not-found", 404, "No such route",
        "The service has nothing at this path. Nothing was read or changed.",
        "Compare the path with the list at /docs. Paths are case-sensitive and end without a slash.",
    ),
    ProblemType(
        "product-not-found", 404, "No such product",
        "The request names products that were never created or have been deleted; `missing` lists them. Nothing was changed.",
        "Check the ids, which are case-sensitive. PUT /products/{id} creates a product of that id.",
    ),
    ProblemType(
        "method-not-allowed", 405, "The path does not take this method",
        "There is something at this path, but it does not take this method. Nothing was changed.",
        "Use one of the methods in the Allow header.",
    ),
    ProblemType(
        "already-exists", 409, "A product of that id exists",
        "POST /products only creates, and a product of that id is there at `current_version`. It was left as it is.",
        "Choose another id, or leave it out to be given one. PUT /products/{id} replaces an existing product.",
    ),
    ProblemType(
        "insufficient-stock", 409, "There is not enough stock",
        "The request would take the stock of a product below zero. `shortages` lists each such product with what was there"
        " (`available`, at `version`) and what the request takes on balance (`requested`). No line of it was done.",
        "Take less, or wait until stock has been added. To correct a wrong stock, send a count to PUT /products/{id}/stock.",
    ),
    ProblemType(
        "stock-limit", 409, "The stock would grow too large",
        "The request would raise the stock of the products in `product_ids` above 9007199254740991 (2^53-1), the largest"
        " integer that every JSON reader holds exactly. No line of it was done.",
        "Check the delta. No larger stock can be kept.",
    ),
    ProblemType(
        "request-in-progress", 409, "The first request with this key is under way",
        "Another request with the same Idempotency-Key has begun and did not finish in time. This one was not begun.",
        "Repeat the request with the same key after Retry-After: it will be told what the first one was told.",
        1,
    ),
    ProblemType(
        "precondition-failed", 412, "The product is not as the request expects it",
        "If-Match or If-None-Match does not hold of the product: somebody else changed, created or deleted it."
        " `current_version` is the version it has now, or null when there is none. Nothing was changed.",
        "Read the product again, decide anew, and send the request with its current ETag.",
    ),
    ProblemType(
        "body-too-large", 413, "The body is too large",
        "The body has more bytes than the service takes; `limit_bytes` says how many that is. Nothing was changed.",
        "Send less at once: split a batch into several.",
    ),
    ProblemType(
        "unsupported-media-type", 415, "The body is not declared as JSON",
        "Content-Type or Content-Encoding names something that this operation does not read. Nothing was changed.",
        "Send uncompressed JSON as application/json; PATCH takes application/merge-patch+json too.",
    ),
    ProblemType(
        "invalid-request", 422, "The request breaks a rule",
        "The request can be read, but a field or parameter is missing, unknown, of another kind or out of its range."
        " `errors` names each by a JSON pointer into the body or by its parameter. Nothing was changed.",
        "Correct what `errors` lists; repeated as it is, the request will be refused again.",
    ),
    ProblemType(
        "repeated-product", 422, "The batch names the product twice",
        "An earlier item of the same batch has this id. Items are not applied one after another, so the later one was refused;"
        " the earlier one was treated on its own merits.",
        "Send each id once in a batch.",
    ),
    ProblemType(
        "idempotency-key-reused", 422, "The key belongs to another request",
        "A request with this Idempotency-Key was answered before, and it had another method, path, query, precondition or"
        " body. Its answer would be wrong for this one. Nothing was changed.",
        "Send each request with a key of its own, and repeat it unchanged, byte for byte, under that key.",
    ),
    ProblemType(
        "precondition-required", 428, "Setting this stock needs If-Match",
        "The product exists and the request carries a stock. Without a version, an old copy sent back could bring units"
        " back that were sold meanwhile. Nothing was changed.",
        "Add If-Match with the ETag of the product you read, leave `stock` out, or set it with PUT /products/{id}/stock.",
    ),
    ProblemType(
        "internal-error", 500, "Something unforeseen happened",
        "The service met a fault of its own and wrote it to its log. Whether a change was made is not known.",
        "Read the product to see its state. Report the X-Request-Id of the answer to whoever operates the service.",
    ),
    ProblemType(
        "overloaded", 503, "Too many requests are waiting",
        "Every place in a queue of the service is taken. Nothing was done for this request.",
        "Repeat it after Retry-After, and send fewer requests at once.",
        1,
    ),
    ProblemType(
        "database-unavailable", 503, "PostgreSQL does not answer",
        "The database could not be reached in time, so the answer is not known. Nothing was changed.",
        "Repeat the request after Retry-After.",
        2,
    ),
    ProblemType(
        "cache-unavailable", 503, "Redis does not answer",
        "The cache gave no definite answer, so the entry may or may not be dropped. Products are safe in the database,"
        " and reading and writing them goes on without the cache.",
        "Repeat the request after Retry-After; dropping an entry twice does no harm.",
        1,
    ),
    ProblemType(
        "outcome-unknown", 503, "Whether the change happened is not known",
        "The change was sent to the database, and then its answer was lost or it could not be shown in time that every reader"
        " sees it. It happened as a whole or not at all.",
        "Repeat a request that had an Idempotency-Key, with the same key: it is done once. Without one, read the product"
        " before you decide; PUT and DELETE may simply be repeated, with If-Match to be safe.",
        1,
    ),
)  # fmt: skip
TYPES: Mapping[str, ProblemType] = {kind.slug: kind for kind in _TYPES}
"""The problem types by slug, in the order of their statuses."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field (a JSON pointer as a URI fragment) or one query or path parameter."""

    detail: str
    pointer: str = "#"
    parameter: str | None = None

    def members(self) -> dict[str, str]:
        """Give the fault as it stands in ``errors``."""
        place = {"parameter": self.parameter} if self.parameter is not None else {"pointer": self.pointer}
        return place | {"detail": self.detail}


class Problem(Exception):
    """An answer that is an error: what happened, and the members and headers of its type."""

    def __init__(
        self, slug: str, detail: str, *, headers: Mapping[str, str] | None = None, members: Mapping[str, object] | None = None
    ) -> None:
        self.kind = TYPES[slug]
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})
        super().__init__(detail)

    def document(self, instance: str | None = None) -> dict[str, object]:
        """Give the problem's JSON object; ``instance`` is the path of the request that met it."""
        place = {} if instance is None else {"instance": instance}
        head = {"type": self.kind.path, "title": self.kind.title, "status": self.kind.status, "detail": self.detail}
        return head | place | self.members

    def response(self, scope: Mapping[str, Any]) -> Response:
        """Give the answer to the request of ``scope``."""
        headers = {"Cache-Control": "no-store"} | self.headers
        if self.kind.retry_after_s is not None:
            headers["Retry-After"] = str(self.kind.retry_after_s)
        path = quote(scope["raw_path"], safe="/%:@!$&'()*+,;=~")
        return Response(self.body(path), self.kind.status, headers, MEDIA_TYPE)

    def body(self, instance: str | None = None) -> bytes:
        """Write ``document``. ASCII only: a lone surrogate that came in as an escape could not be written as UTF-8."""
        return json.dumps(self.document(instance)).encode()


def invalid(faults: Sequence[Fault], most: int = MAX_FAULTS) -> Problem:
    """Make the 422 of a request that breaks rules; at most ``most`` faults are listed, and that there are more is said."""
    if len(faults) > most:
        count = f"More than {most} rules are broken, of which `errors` lists {most}"
    else:
        count = "One rule is broken, see `errors`" if len(faults) == 1 else f"{len(faults)} rules are broken, see `errors`"
    return Problem(
        "invalid-request",
        f"{count}; nothing was changed. Correct the request and send it again.",
        members={"errors": [fault.members() for fault in faults[:most]]},
    )


def no_product(missing: Sequence[str], headers: Mapping[str, str] | None = None) -> Problem:
    """Make the 404 of products that are not there."""
    named = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")  # noqa: PLR2004 - enough for a sentence
    return Problem(
        "product-not-found",
        f"There is no product {named}: it was never created, or it has been deleted. Nothing was changed. Check the id.",
        headers=headers,
        members={"missing": list(missing)},
    )


def precondition_failed(product_id: str, current_version: int | None) -> Problem:
    """Make the 412 of a product that is at another version, or not there."""
    now = f"is at version {current_version}" if current_version is not None else "does not exist"
    return Problem(
        "precondition-failed",
        f"Product {product_id} {now}, which the request's precondition does not allow. Nothing was changed."
        " Read it again and send the request with its current ETag.",
        headers={} if current_version is None else {"ETag": f'"{current_version}"'},
        members={"current_version": current_version},
    )


def _exists(error: products.AlreadyExists) -> Problem:
    return Problem(
        "already-exists",
        f"Product {error.product_id} exists already, at version {error.version}, and was left as it is."
        " Choose another id, or replace it with PUT.",
        members={"product_id": error.product_id, "current_version": error.version},
    )


def _insufficient(error: products.InsufficientStock) -> Problem:
    first, *others = error.shortages
    more = f", and {len(others)} other products lack stock" if others else ""
    return Problem(
        "insufficient-stock",
        f"The request takes {first.requested} of product {first.product_id}, and {first.available} are there{more}."
        " Nothing was changed. Take less, or add stock first.",
        members={"shortages": [asdict(shortage) for shortage in error.shortages]},
    )


def _too_much(error: products.StockLimit) -> Problem:
    return Problem(
        "stock-limit",
        f"The stock of product {error.product_ids[0]} would grow above {MAX_INTEGER}. Nothing was changed. Check the delta.",
        members={"product_ids": list(error.product_ids)},
    )


def _as_explained(slug: str) -> Callable[[Any], Problem]:
    kind = TYPES[slug]
    return lambda _: Problem(slug, f"{kind.meaning} {kind.remedy}")


def _refused(error: Exception) -> Problem:
    kind = TYPES["database-unavailable"]
    return Problem(kind.slug, f"{kind.meaning} Reason: {error}. {kind.remedy}")


EXCEPTIONS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    Problem: lambda error: error,
    products.ProductsMissing: lambda error: no_product(error.missing),
    products.AlreadyExists: _exists,
    products.PreconditionRequired: _as_explained("precondition-required"),
    products.PreconditionFailed: lambda error: precondition_failed(error.product_id, error.current_version),
    products.InsufficientStock: _insufficient,
    products.StockLimit: _too_much,
    products.KeyReused: _as_explained("idempotency-key-reused"),
    products.RequestInProgress: _as_explained("request-in-progress"),
    products.OutcomeUnknown: _as_explained("outcome-unknown"),
    cache.NotSettled: _as_explained("outcome-unknown"),
    cache.Overloaded: _as_explained("overloaded"),
    postgres.CommitUnknown: _as_explained("outcome-unknown"),
    postgres.TransactionConflict: _as_explained("overloaded"),
    postgres.DatabaseOverloaded: _as_explained("overloaded"),
    cache.SourceUnavailable: _as_explained("database-unavailable"),
    cache.SourceRefused: _refused,
    cache.SourceDeposed: _refused,
    postgres.DatabaseNewer: _as_explained("database-unavailable"),
    postgres.DatabaseUnavailable: _as_explained("database-unavailable"),
    postgres.DatabaseUnsuitable: _refused,
    cache.StoreUnavailable: _as_explained("cache-unavailable"),
}
"""What an exception means to a client. Anything else that is raised is a fault of ours: 500 ``internal-error``."""


def problem_of(refusal: products.Refused) -> Problem:
    """Give the problem that a refusal is to a client."""
    return EXCEPTIONS[type(refusal)](refusal)


def _allowed(request: Request) -> str:
    """Name every method that some route takes at this path; a HEAD goes wherever a GET does."""
    found = set()
    for method in _METHODS:
        # A fresh scope: a mount has moved the root of the request's own.
        root = request.scope.get("app_root_path", "")
        scope = {"type": "http", "method": method, "path": request.scope["path"], "root_path": root}
        for route in request.app.routes:
            match, _ = route.matches(scope)
            if match is Match.FULL and (method == "GET" or not isinstance(route, Mount)):
                found.add(method)
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


def _of_routing(request: Request, error: HTTPException) -> Problem:
    method = request.scope["method"]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed(request)
        detail = f"This path does not take {method[:20]}; nothing was changed. It takes {allowed}."
        return Problem("method-not-allowed", detail, headers={"Allow": allowed})
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem("route-not-found", "There is nothing at this path; nothing was changed. /docs lists what there is.")
    return _as_explained("internal-error")(error)


def _handler(make: Callable[[Any], Problem]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return make(error).response(request.scope)

    return answer


def install(app: FastAPI) -> None:
    """Let ``app`` answer every error with a problem."""

    async def answer_routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
        return _of_routing(request, error).response(request.scope)

    for exception, make in EXCEPTIONS.items():
        app.add_exception_handler(exception, _handler(make))
    app.add_exception_handler(HTTPException, answer_routing)

"""The error answers of the service: RFC 9457 problems, whose types ``problem_types`` explains.

The table ``EXCEPTIONS`` maps exceptions to problems.
"""

import json
import math
import random
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

from app.access import errors as access
from app.api.problem_types import TYPES
from app.api.request_state import PROBLEM
from app.cache import errors as cache
from app.feed import errors as feed
from app.postgres import errors as postgres
from app.products import errors as products
from app.products.accepted import BacklogFull
from app.products.payload import timestamp
from app.products.product import MAX_INTEGER
from app.products.reservation import MAX_LIFE_S

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 50
"""Most errors that one answer lists."""
_METHODS = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field (a JSON pointer as a URI fragment) or one query or path parameter."""

    detail: str
    pointer: str = "#"
    parameter: str | None = None

    def members(self) -> dict[str, str]:
        """Return the error as a member of ``errors``."""
        place = {"parameter": self.parameter} if self.parameter is not None else {"pointer": self.pointer}
        return place | {"detail": self.detail}


class Problem(Exception):
    """An error answer with its type, what happened, and further members and headers.

    The exception that caused it, if there is one, says the reason to the operator.
    """

    def __init__(
        self, slug: str, detail: str, *, headers: Mapping[str, str] | None = None, members: Mapping[str, object] | None = None
    ) -> None:
        self.kind = TYPES[slug]
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})
        super().__init__(detail)

    def document(self, instance: str | None = None) -> dict[str, object]:
        """Return the problem's JSON object; ``instance`` is the path of the request that caused it."""
        place = {} if instance is None else {"instance": instance}
        head = {"type": self.kind.path, "title": self.kind.title, "status": self.kind.status, "detail": self.detail}
        return head | place | self.members

    def response(self, scope: Mapping[str, Any]) -> Response:
        """Return the answer to the request of ``scope``."""
        headers = {"Cache-Control": "no-store"}
        if self.kind.retry_after_s is not None:
            headers["Retry-After"] = str(self.kind.retry_after_s)
        headers |= self.headers
        if (state := scope.get("state")) is not None:
            state[PROBLEM] = self.kind.slug, str(self.__cause__ or "") or self.detail
        path = quote(scope["raw_path"], safe="/%:@!$&'()*+,;=~")
        return Response(self.body(path), self.kind.status, headers, MEDIA_TYPE)

    def body(self, instance: str | None = None) -> bytes:
        """Return ``document`` in ASCII, because a lone surrogate that the client sent as an escape has no UTF-8 form."""
        return json.dumps(self.document(instance)).encode()


def invalid(faults: Sequence[FieldError], most: int = MAX_ERRORS) -> Problem:
    """Return the 422 of a request that breaks rules. It lists at most ``most`` errors, and says if there are more."""
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
    """Return the 404 of products that do not exist."""
    named = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")  # noqa: PLR2004 - enough for a sentence
    if len(missing) == 1:
        detail = (
            f"There is no product {named}: it was never created, or it has been deleted. Nothing was changed. Check the id."
        )
    else:
        detail = (
            f"There are no products {named}: they were never created, or they have been deleted. Nothing was changed."
            " Check the ids."
        )
    return Problem("product-not-found", detail, headers=headers, members={"missing": list(missing)})


def precondition_failed(product_id: str, current_version: int | None) -> Problem:
    """Return the 412 of a product that is at another version, or does not exist."""
    now = f"is at version {current_version}" if current_version is not None else "does not exist"
    return Problem(
        "precondition-failed",
        f"Product {product_id} {now}, which the request's precondition does not allow. Nothing was changed."
        " Read it again and send the request with its current ETag.",
        headers={} if current_version is None else {"ETag": f'"{current_version}"'},
        members={"current_version": current_version},
    )


def _already_exists(error: products.AlreadyExists) -> Problem:
    return Problem(
        "already-exists",
        f"Product {error.product_id} exists already, at version {error.version}, and was left as it is."
        " Choose another id, or replace it with PUT.",
        members={"product_id": error.product_id, "current_version": error.version},
    )


def _insufficient_stock(error: products.InsufficientStock) -> Problem:
    first, *others = error.shortages
    more = f"; {len(others)} other product{'s lack' if len(others) > 1 else ' lacks'} stock, too" if others else ""
    held = f" ({first.stock} in stock, {first.reserved} held)" if first.reserved else ""
    remedy = "Take less, or add" if first.available else "Wait until holds end, or add" if first.reserved else "Add"
    return Problem(
        "insufficient-stock",
        f"The request takes {first.requested} of product {first.product_id}, of which {first.available}"
        f" {'is' if first.available == 1 else 'are'} available{held}{more}. Nothing was changed. {remedy} stock first.",
        members={"shortages": [asdict(shortage) for shortage in error.shortages]},
    )


def _product_reserved(error: products.ProductReserved) -> Problem:
    return Problem(
        "product-reserved",
        f"{error.reserved} units of product {error.product_id} are held by reservations, so it was not deleted."
        f" Release them first: GET /reservations?product_id={error.product_id} lists them.",
        members={"product_id": error.product_id, "reserved": error.reserved, "current_version": error.version},
    )


def no_reservation(reservation_id: str) -> Problem:
    """Return the 404 of a reservation that does not exist."""
    return Problem(
        "reservation-not-found",
        f"There is no reservation {reservation_id[:80]!a}. Nothing was changed. Check the id.",
        members={"reservation_id": reservation_id},
    )


def reservation_changed(reservation_id: str, current_version: int) -> Problem:
    """Return the 412 of a reservation that is at another version."""
    return Problem(
        "precondition-failed",
        f"Reservation {reservation_id} is at version {current_version}, which the request's precondition does not allow."
        " Nothing was changed. Read it again and send the request with its current ETag.",
        headers={"ETag": f'"{current_version}"'},
        members={"current_version": current_version},
    )


def _reservation_expired(error: products.ReservationExpired) -> Problem:
    ended = timestamp(error.expires_at)
    return Problem(
        "reservation-expired",
        f"Reservation {error.reservation_id} ended at {ended}, and what it still held was given back. Make a new one, or sell"
        " the units with an adjustment if they are free.",
        members={"reservation_id": error.reservation_id, "expires_at": ended, "current_version": error.version},
    )


def _reservation_closed(error: products.ReservationClosed) -> Problem:
    return Problem(
        "reservation-closed",
        f"Reservation {error.reservation_id} is {error.status}, and nothing of it is open. Nothing was changed."
        " Make a new reservation for further units, and take sold ones back by an adjustment with the reason return.",
        # `status` is the answer's own status.
        members={
            "reservation_id": error.reservation_id,
            "reservation_status": error.status,
            "current_version": error.version,
        },
    )


def _not_held(error: products.NotHeld) -> Problem:
    first, more = error.lines[0], "; `lines` has the others" if len(error.lines) > 1 else ""
    return Problem(
        "not-held",
        f"Line {first.line} of reservation {error.reservation_id} has {first.open} open units, and the request names"
        f" {first.requested}{more}. Nothing was changed. Name at most what is open.",
        members={"reservation_id": error.reservation_id, "lines": [asdict(excess) for excess in error.lines]},
    )


def _life_too_long(_error: products.LifeTooLong) -> Problem:
    rule = f"must let the reservation end at most {MAX_LIFE_S} s after its creation"
    return invalid([FieldError(rule, "#/expires_in_s")])


def _stock_limit(error: products.StockLimit) -> Problem:
    return Problem(
        "stock-limit",
        f"The stock of product {error.product_ids[0]} would grow above {MAX_INTEGER}. Nothing was changed. Check the delta.",
        members={"product_ids": list(error.product_ids)},
    )


def _explanation(slug: str) -> Callable[[Any], Problem]:
    kind = TYPES[slug]
    return lambda _: Problem(slug, f"{kind.meaning} {kind.remedy}")


def _database_refusal(error: Exception) -> Problem:
    kind = TYPES["database-unavailable"]
    return Problem(kind.slug, f"{kind.meaning} Reason: {str(error).removesuffix('.')}. {kind.remedy}")


def _unauthenticated(error: access.Unauthenticated) -> Problem:
    kind = TYPES["unauthenticated"]
    challenge = 'Bearer realm="larder"' + (', error="invalid_token"' if error.given else "")
    detail = f"{str(error).capitalize()}. Nothing was read or changed. {kind.remedy}"
    return Problem(kind.slug, detail, headers={"WWW-Authenticate": challenge})


def _forbidden(error: access.Forbidden) -> Problem:
    kind = TYPES["forbidden"]
    return Problem(
        kind.slug,
        f"The key does not have the scope {error.scope}. Nothing was read or changed. {kind.remedy}",
        headers={"WWW-Authenticate": f'Bearer realm="larder", error="insufficient_scope", scope="{error.scope}"'},
        members={"scope": error.scope},
    )


def _rate_limited(error: access.RateLimited) -> Problem:
    kind = TYPES["rate-limited"]
    # The pause has a random part, so that refused clients do not return together.
    pause_s = math.ceil(error.wait_s * random.uniform(1.0, 1.5) + random.random())
    return Problem(
        kind.slug,
        f"{kind.meaning} {kind.remedy}",
        headers={
            "Retry-After": str(pause_s),
            "RateLimit-Policy": f'"client";q={max(1, round(error.rate_per_s))};w=1',
            "RateLimit": f'"client";r=0;t={math.ceil(error.wait_s)}',
        },
    )


def _quota_exceeded(error: access.QuotaExceeded) -> Problem:
    kind = TYPES["quota-exceeded"]
    detail = f"The client has used up its quota of {error.quota}. Nothing was changed. {kind.remedy}"
    return Problem(kind.slug, detail, headers={"Retry-After": str(math.ceil(error.wait_s))})


def _resync(slug: str) -> Callable[[Any], Problem]:
    kind = TYPES[slug]
    members = {"resync": ["/changes", "/products"]}
    return lambda _: Problem(slug, f"{kind.meaning} {kind.remedy}", members=members)


def _of_another_pair(slug: str) -> Callable[[Any], Problem]:
    kind = TYPES[slug]
    return lambda error: Problem(slug, f"{error}. Nothing was read or changed. {kind.remedy}", members=error.members)


def _backlog_full(error: BacklogFull) -> Problem:
    return Problem(
        "overloaded",
        "Too many accepted writes wait to be decided. Nothing was accepted or changed. Send the request again after"
        " Retry-After, or without Prefer: respond-async to have it decided at once.",
        headers={"Retry-After": str(error.retry_after_s)},
    )


EXCEPTIONS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    Problem: lambda error: error,
    access.Unauthenticated: _unauthenticated,
    access.Forbidden: _forbidden,
    access.KeysUnavailable: _explanation("keys-unavailable"),
    access.RateLimited: _rate_limited,
    access.QuotaExceeded: _quota_exceeded,
    products.ProductsMissing: lambda error: no_product(error.missing),
    products.AlreadyExists: _already_exists,
    products.PreconditionRequired: _explanation("precondition-required"),
    products.PreconditionFailed: lambda error: precondition_failed(error.product_id, error.current_version),
    products.InsufficientStock: _insufficient_stock,
    products.StockLimit: _stock_limit,
    products.ProductReserved: _product_reserved,
    products.NotEnabled: _explanation("not-enabled"),
    products.ReservationMissing: lambda error: no_reservation(error.reservation_id),
    products.ReservationChanged: lambda error: reservation_changed(error.reservation_id, error.current_version),
    products.ReservationExpired: _reservation_expired,
    products.ReservationClosed: _reservation_closed,
    products.NotHeld: _not_held,
    products.LifeTooLong: _life_too_long,
    products.TooManyEnded: _explanation("overloaded"),
    products.NotHere: _of_another_pair("not-here"),
    products.BucketMoving: _of_another_pair("bucket-moving"),
    products.SeveralPairs: _of_another_pair("several-pairs"),
    products.KeyReused: _explanation("idempotency-key-reused"),
    feed.FeedStarting: _explanation("feed-starting"),
    feed.CursorTooOld: _resync("cursor-too-old"),
    feed.CursorOfAnotherHistory: _resync("cursor-of-another-history"),
    products.RequestInProgress: _explanation("request-in-progress"),
    products.OutcomeUnknown: _explanation("outcome-unknown"),
    cache.NotSettled: _explanation("outcome-unknown"),
    cache.Overloaded: _explanation("overloaded"),
    BacklogFull: _backlog_full,
    postgres.CommitUnknown: _explanation("outcome-unknown"),
    postgres.TransactionConflict: _explanation("overloaded"),
    postgres.DatabaseOverloaded: _explanation("overloaded"),
    cache.SourceUnavailable: _explanation("database-unavailable"),
    cache.SourceRefused: _database_refusal,
    cache.SourceDeposed: _database_refusal,
    postgres.DatabaseNewer: _database_refusal,
    postgres.DatabaseUnavailable: _explanation("database-unavailable"),
    postgres.DatabaseUnsuitable: _database_refusal,
    cache.StoreUnavailable: _explanation("cache-unavailable"),
}
"""The problem that answers each exception. Any other exception is answered with 500 ``internal-error``."""


def problem_of(refusal: products.Refused) -> Problem:
    """Return the problem that answers a refusal."""
    return EXCEPTIONS[type(refusal)](refusal)


def problem_for(error: Exception) -> Problem | None:
    """Return the problem that answers an exception; ``None`` if it is unexpected."""
    make = next((EXCEPTIONS[kind] for kind in type(error).__mro__ if kind in EXCEPTIONS), None)
    return None if make is None else make(error)


def _allowed_methods(request: Request) -> str:
    """Return the names of all methods that the routes at this path take, with HEAD if one takes GET."""
    found = set()
    for method in _METHODS:
        # The scope is a new one, because a mount has moved the root in the request's own scope.
        root = request.scope.get("app_root_path", "")
        scope = {"type": "http", "method": method, "path": request.scope["path"], "root_path": root}
        for route in request.app.routes:
            match, _ = route.matches(scope)
            if match is Match.FULL and (method == "GET" or not isinstance(route, Mount)):
                found.add(method)
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


def _routing_problem(request: Request, error: HTTPException) -> Problem:
    method = request.scope["method"]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        detail = f"This path does not take {method[:20]}; nothing was changed. It takes {allowed}."
        return Problem("method-not-allowed", detail, headers={"Allow": allowed})
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem("route-not-found", "There is nothing at this path; nothing was changed. /docs lists all paths.")
    return _explanation("internal-error")(error)


def _handler(make: Callable[[Any], Problem]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        problem = make(error)
        problem.__cause__ = error
        return problem.response(request.scope)

    return answer


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error with a problem."""

    async def answer_routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
        return _routing_problem(request, error).response(request.scope)

    for exception, make in EXCEPTIONS.items():
        app.add_exception_handler(exception, _handler(make))
    app.add_exception_handler(HTTPException, answer_routing)

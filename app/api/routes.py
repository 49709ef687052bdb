"""Routes whose endpoints take the request and return the response.

FastAPI routes and documents these endpoints. Its dependency resolution and serialisation are skipped, because they cost more
CPU than the transaction of a write. An endpoint checks its request itself.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access import keys
from app.api.admission import Access
from app.api.conditions import named_bucket
from app.api.context import larder_in
from app.api.exchange import deliver
from app.api.problems import problem_for
from app.api.request_state import CALLER, NAMED
from app.products.pair import Pair
from app.products.product import is_product_id

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_ACCESS = "__larder_access__"
_ANY = "{}"
"""Stands for a parameter in the segments of a path."""
LIST_COST = 10
"""What a page of a list or a read of many products costs; a read of one product costs 1."""
BATCH_COST = 20
"""What a write of many products costs."""


def requires(scope: keys.Scope, cost: int = 1) -> Callable[[Endpoint], Endpoint]:
    """Mark an endpoint with the scope that it needs and with what it costs."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ACCESS, Access(scope, cost))
        return endpoint

    return mark


def open_to_all(endpoint: Endpoint) -> Endpoint:
    """Mark an endpoint that needs no key."""
    setattr(endpoint, _ACCESS, None)
    return endpoint


def access_of(endpoint: Callable[..., Any]) -> Access | None:
    """Return what a marked endpoint needs; ``None`` if it is open to all.

    Raises:
        AttributeError: it is not marked. An endpoint without a mark is never served.
    """
    access: Access | None = getattr(endpoint, _ACCESS)
    return access


class RequestRoute(APIRoute):
    """A route whose endpoint is called with the request, once the request is admitted."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.access = access_of(endpoint)
        self.app = self._answer

    def respond(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[Response]:
        """Admit the request, and call the endpoint with it and the parameters of its path, unchecked."""
        pair = None
        if self.access is not None:
            larder = larder_in(scope)
            state = scope["state"]
            if CALLER not in state:
                state[CALLER] = larder.admission.admit(scope, self.access)
            pair = larder.pair
        endpoint: Callable[..., Awaitable[Response]] = self.endpoint
        request = Request(scope, receive, send)
        if pair is not None:
            return _in_pair(pair, endpoint, request, **scope["path_params"])
        return endpoint(request, **scope["path_params"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await deliver(await self.respond(scope, receive, send), scope, receive, send)


async def _in_pair(pair: Pair, endpoint: Callable[..., Awaitable[Response]], request: Request, **parameters: Any) -> Response:
    """Answer a request if its path and ``Larder-Bucket`` belong to this pair. An id that is illegal is refused later.

    A read is checked again when its answer is known. Meanwhile its products may have left: "not found" would then be wrong.
    """
    _check_pair(pair, request.scope)
    try:
        response = await endpoint(request, **parameters)
    except Exception:
        if request.method == "GET":
            _check_pair(pair, request.scope)
        raise
    if request.method == "GET":
        _check_pair(pair, request.scope)
    return response


def _check_pair(pair: Pair, scope: Scope) -> None:
    pair.check_fresh()
    writes = scope["method"] != "GET"
    named = [scope["path_params"].get(name, "") for name in ("product_id", "reservation_id")]
    pair.check([name for name in named if is_product_id(name)], writes=writes)
    if (bucket := named_bucket(scope["headers"])) is not None:
        pair.check_bucket(bucket, writes=writes)
    pair.check(scope["state"].get(NAMED, ()), writes=writes)


class DirectRoutes:
    """ASGI layer that calls a ``RequestRoute`` itself, and answers its errors; every other request passes on.

    The layers of the frameworks make an exit stack, a second request object and two wrappers of ``send`` for each request, and
    try one route after another. These routes use none of that: they are found in a table.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._constant: dict[tuple[str, str], RequestRoute] = {}
        """The routes without a parameter, by method and path."""
        self._places: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        """Where the parameter can be, by method and number of segments."""
        self._named: dict[tuple[str, ...], tuple[RequestRoute, str]] = {}
        """The routes with a parameter, and its name, by method and segments; ``_ANY`` stands for the parameter's segment."""
        for route in routes:
            if isinstance(route, RequestRoute):
                self._add(route)

    def _add(self, route: RequestRoute) -> None:
        segments = route.path.split("/")
        places = [place for place, segment in enumerate(segments) if segment.startswith("{")]
        for method in route.methods or ():
            if not places:
                self._constant[method, route.path] = route
            else:
                [place] = places
                self._places[method, len(segments)].add(place)
                key = method, *segments[:place], _ANY, *segments[place + 1 :]
                self._named[key] = route, segments[place].strip("{}")

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request. Raises ``Problem`` for a refusal."""
        # This is no coroutine, because each one costs something whenever the request goes on after a wait.
        if scope["type"] == "http" and (route := self.route_of(scope)) is not None:
            return self._call(route, scope, receive, send)
        return self._app(scope, receive, send)

    def route_of(self, scope: Scope) -> RequestRoute | None:
        """Return the route of a request, and note it and the parameter in the scope; ``None`` if there is none in the table."""
        method, path = scope["method"], scope["path"]
        if (constant := self._constant.get((method, path))) is not None:
            scope["route"], scope["path_params"] = constant, {}
            return constant
        segments = path.split("/")
        for place in self._places.get((method, len(segments)), ()):
            value, segments[place] = segments[place], _ANY
            if value and (named := self._named.get((method, *segments))) is not None:
                scope["route"], scope["path_params"] = named[0], {named[1]: value}
                return named[0]
            segments[place] = value
        return None

    @staticmethod
    async def _call(route: RequestRoute, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await deliver(await route.respond(scope, receive, send), scope, receive, send)
        except Exception as error:
            if (problem := problem_for(error)) is None:
                raise
            raise problem from error


def request_router(tag: str) -> APIRouter:
    """Return a router of such routes. ``tag`` is their heading in the documentation."""
    return APIRouter(tags=[tag], route_class=RequestRoute)

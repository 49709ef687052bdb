"""Routes whose endpoints take the request and return the response.

FastAPI routes and documents these endpoints. Its dependency resolution and serialisation are skipped, because they cost more
CPU than the transaction of a write. An endpoint checks its request itself.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.access import keys
from app.api.admission import CALLER, Access

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
_ACCESS = "__larder_access__"
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

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit the request, and call the endpoint with it and the parameters of its path, unchecked."""
        if self.access is not None and CALLER not in scope["state"]:
            admission = scope["app"].state.larder.admission
            scope["state"][CALLER] = admission.admit(scope, self.access)
        response: Response = await self.endpoint(Request(scope, receive, send), **scope["path_params"])
        await response(scope, receive, send)


def request_router(tag: str) -> APIRouter:
    """Return a router of such routes. ``tag`` is their heading in the documentation."""
    return APIRouter(tags=[tag], route_class=RequestRoute)

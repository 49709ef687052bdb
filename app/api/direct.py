"""Routes whose endpoints take the request and give the response, and the few layers that they need around them.

FastAPI finds and describes them; what it would do between, to solve dependencies, to hold their resources and to serialise,
costs a write more than its transaction. An endpoint calls what it needs instead, and the order of its lines is the order of
the errors.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class _DirectRoute(APIRoute):
    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint with the request and the path's parameters, as they are: it checks them itself."""
        response: Response = await self.endpoint(Request(scope, receive, send), **scope["path_params"])
        await response(scope, receive, send)


def direct_router(tag: str) -> APIRouter:
    """Make a router of such routes, under one heading of the documentation."""
    return APIRouter(tags=[tag], route_class=_DirectRoute)


def layers(app: FastAPI) -> ASGIApp:
    """Put the application together without the layers that would do nothing here.

    The outermost one of its own answers what nobody foresaw, and bodies are limited where they are read.
    """
    handlers = {kind: handler for kind, handler in app.exception_handlers.items() if kind not in {500, Exception}}
    # The pages are ordinary FastAPI routes, which look for the exit stack.
    inner: ASGIApp = ExceptionMiddleware(AsyncExitStackMiddleware(app.router), handlers=handlers)
    for layer, args, options in reversed(app.user_middleware):
        inner = layer(inner, *args, **options)
    return inner

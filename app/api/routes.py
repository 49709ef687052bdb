"""Routes whose endpoints take the request and return the response.

FastAPI routes and documents these endpoints. Its dependency resolution and serialisation are skipped, because they cost more
CPU than the transaction of a write. An endpoint checks its request itself.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class _RequestRoute(APIRoute):
    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint with the request and the parameters of its path, unchecked."""
        response: Response = await self.endpoint(Request(scope, receive, send), **scope["path_params"])
        await response(scope, receive, send)


def request_router(tag: str) -> APIRouter:
    """Return a router of such routes. ``tag`` is their heading in the documentation."""
    return APIRouter(tags=[tag], route_class=_RequestRoute)

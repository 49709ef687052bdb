"""Routes whose endpoints take the request and give the response.

FastAPI finds and describes them; what it would do between, to solve dependencies and to serialise, costs a write more than
its transaction. An endpoint calls what it needs instead, and the order of its lines is the order of the errors.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute


class _DirectRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Call the endpoint with the request and the path's parameters, as they are: it checks them itself."""
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, **request.path_params)
            return response

        return handle


def direct_router(tag: str) -> APIRouter:
    """Make a router of such routes, under one heading of the documentation."""
    return APIRouter(tags=[tag], route_class=_DirectRoute)

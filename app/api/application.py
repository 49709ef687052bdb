"""The HTTP application: its routes, the layers around them, and its description."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from app.api import (
    accepting,
    changes,
    collection,
    dashboard,
    html_pages,
    openapi,
    operation,
    problems,
    products,
    reservations,
    stock,
)
from app.api.metrics import RequestStats
from app.api.middleware import HostLayer, OutermostLayer
from app.api.routes import DirectRoutes, RequestRoute
from app.telemetry.telemetry import Telemetry

DESCRIPTION = (
    "Products and their stock, kept in PostgreSQL and served from a cache that never answers with the past. "
    "Errors are problem details (RFC 9457); [each type has a page](/problems)."
)


class LarderApi(FastAPI):
    """FastAPI with fewer layers around the routes, and with the description that ``openapi`` completes."""

    open_to_all = False
    """Whether requests are admitted without a key, which the description says."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. The frameworks' own methods look for a root path and for telemetry, which are not used here."""
        if scope["type"] == "http" and self.middleware_stack is not None:
            scope["app"] = self
            await self.middleware_stack(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    @override
    def build_middleware_stack(self) -> ASGIApp:
        # ``OutermostLayer`` handles unexpected errors, so Starlette's layer is left out. FastAPI's limit on bodies is left out,
        # too, because bodies are limited where they are read. The exit stack stays, because the HTML pages are ordinary FastAPI
        # routes, which need it.
        handlers = {kind: handler for kind, handler in self.exception_handlers.items() if kind not in {500, Exception}}
        inner: ASGIApp = ExceptionMiddleware(AsyncExitStackMiddleware(self.router), handlers=handlers)
        inner = DirectRoutes(inner, self.routes)
        for layer, args, options in reversed(self.user_middleware):
            inner = layer(inner, *args, **options)
        return inner

    @override
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            routes = [route for route in self.routes if isinstance(route, RequestRoute)]
            openapi.complete(super().openapi(), routes, keys_optional=self.open_to_all)
        assert self.openapi_schema is not None  # noqa: S101 - the call above keeps it
        return self.openapi_schema


def build(
    version: str,
    requests: RequestStats,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, object]]] | None = None,
    *,
    open_to_all: bool = False,
    docs: bool = True,
    cors_origins: Sequence[str] = (),
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """Make the application; its lifespan, or a test, puts a ``Larder`` into ``app.state.larder`` before the first request."""
    app = LarderApi(
        title="Larder",
        version=version,
        description=DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/", "description": "the service that serves this description"}],
        openapi_tags=openapi.TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # ``OutermostLayer`` counts requests at a fraction of the cost.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
    )
    app.open_to_all = open_to_all
    problems.install(app)
    for router in (
        stock.router,
        reservations.router,
        products.router,
        accepting.router,
        collection.router,
        changes.router,
        operation.cache_router,
        operation.router,
        dashboard.router,
    ):
        # Routes are added directly, because an included router matches them twice.
        app.router.routes.extend(router.routes)
    html_pages.install(app, docs=docs)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"],
            allow_headers=[
                *("Authorization", "Cache-Control", "Content-Type", "If-Match", "If-None-Match"),
                *("Idempotency-Key", "Larder-Bucket", "Last-Event-ID", "Prefer", "traceparent"),
            ],
            expose_headers=[
                *("Cache-Status", "ETag", "Idempotent-Replayed", "Link", "Location", "RateLimit", "RateLimit-Policy"),
                *("Preference-Applied", "Retry-After", "WWW-Authenticate", "X-Request-Id"),
            ],
        )
    app.add_middleware(HostLayer)
    app.add_middleware(OutermostLayer, requests=requests, telemetry=telemetry or Telemetry())
    return app

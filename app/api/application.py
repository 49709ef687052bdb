"""The HTTP application, put together: what ``app.main`` gives its servers to."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI

from app.api import cache_entries, catalogue, health, pages, problems, products, stock
from app.api.edge import Edge
from app.api.metrics import RequestStats
from app.api.openapi import LarderApi

DESCRIPTION = (
    "Products and their stock, kept in PostgreSQL and served from a cache that never answers with the past. "
    "Errors are problem details (RFC 9457); [each type has a page](/problems)."
)


def build(
    version: str,
    requests: RequestStats,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, object]]] | None = None,
) -> FastAPI:
    """Make the application; its lifespan, or a test, puts a ``Larder`` into ``app.state.larder`` before the first request."""
    app = LarderApi(
        title="Larder",
        version=version,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Requests are counted by Edge, at a fraction of the cost.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
    )
    problems.install(app)
    for part in (stock, products, catalogue, cache_entries, health):
        # As they are: a router that is included asks its routes twice which of them is meant.
        app.router.routes.extend(part.router.routes)
    pages.install(app)
    app.add_middleware(Edge, requests=requests)
    return app

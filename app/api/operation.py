"""Endpoints for operators: liveness, readiness, metrics, and dropping an entry of the cache."""

from fastapi import Request
from starlette.responses import JSONResponse, Response

from app.api.context import larder_of, products_of
from app.api.metrics import CONTENT_TYPE, render
from app.api.openapi import PROMETHEUS, Success, answers
from app.api.responses import NO_STORE, ProductId, checked_id
from app.api.routes import request_router

router = request_router("operation")
cache_router = request_router("cache")
_HEADERS = {"Cache-Control": NO_STORE}


@router.get(
    "/livez",
    operation_id="getLiveness",
    summary="Check that the process runs",
    response_class=Response,
    responses=answers({200: Success("It runs")}, ("internal-error",)),
)
async def livez(_request: Request) -> Response:
    """Return 200 as long as the event loop runs."""
    return JSONResponse({"status": "alive"}, headers=_HEADERS)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check that it can serve",
    description="PostgreSQL must be the primary, with a schema that this release knows. The state of Redis is only reported:"
    " without Redis everything works, at PostgreSQL's speed.",
    response_class=Response,
    responses=answers({200: Success("It can")}, ("overloaded", "database-unavailable", "internal-error")),
)
async def readyz(request: Request) -> Response:
    """Read the epoch from PostgreSQL. A standby, an old primary or a database with a newer schema returns none."""
    larder = larder_of(request)
    await larder.source.ping()
    redis = "up" if larder.store.up else "down"
    return JSONResponse({"status": "ready", "postgresql": "up", "redis": redis}, headers=_HEADERS)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses=answers({200: PROMETHEUS}, ("internal-error",)),
)
async def metrics(request: Request) -> Response:
    """Return the counters of all workers on this address."""
    larder = larder_of(request)
    own = larder.tally()
    total = own if larder.shared_metrics is None else larder.shared_metrics.total(own)
    return Response(render(total), 200, _HEADERS, CONTENT_TYPE)


@cache_router.delete(
    "/cache/products/{product_id}",
    operation_id="dropCacheEntry",
    summary="Drop a product's entry from the cache",
    description="The product stays as it is; the next read takes it from PostgreSQL. Without an entry this succeeds, too.",
    status_code=204,
    response_class=Response,
    responses=answers(
        {204: Success("There is no entry now")}, ("invalid-request", "overloaded", "cache-unavailable", "internal-error")
    ),
)
async def drop_cache_entry(request: Request, product_id: ProductId) -> Response:
    """Drop the entry, whether there is one or not."""
    await products_of(request).drop(checked_id(product_id))
    return Response(status_code=204)

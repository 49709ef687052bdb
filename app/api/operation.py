"""Endpoints for operators: liveness, readiness, metrics, and dropping an entry of the cache."""

from fastapi import Request
from starlette.responses import JSONResponse, Response

from app.access.keys import Scope
from app.api.context import larder_of, products_of
from app.api.metrics import CONTENT_TYPE
from app.api.openapi import PROMETHEUS, Success, answers
from app.api.problems import Problem
from app.api.responses import NO_STORE, ProductId, checked_id
from app.api.routes import open_to_all, request_router, requires
from app.buckets import ranges_of

router = request_router("operation")
cache_router = request_router("cache")
_NOT_READY = "The service cannot serve now. A request with a key of scope operate is told why, and so is the log."
_HEADERS = {"Cache-Control": NO_STORE}


@router.get(
    "/livez",
    operation_id="getLiveness",
    summary="Check that the process runs",
    response_class=Response,
    responses=answers({200: Success("It runs")}, ("internal-error",)),
)
@open_to_all
async def livez(_request: Request) -> Response:
    """Return 200 as long as the event loop runs."""
    return JSONResponse({"status": "alive"}, headers=_HEADERS)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check that it can serve",
    description="PostgreSQL must be the primary, with a schema that this release knows. The state of Redis is only reported:"
    " without Redis everything works, at PostgreSQL's speed. Where keys are needed, a request without a key of scope `operate`"
    " gets the status alone.",
    response_class=Response,
    responses=answers({200: Success("It can")}, ("overloaded", "database-unavailable", "internal-error")),
)
@open_to_all
async def readyz(request: Request) -> Response:
    """Read the epoch from PostgreSQL, at most once a second. A standby, an old primary or a newer database returns none."""
    larder = larder_of(request)
    detailed = larder.admission.may_operate(request.scope["headers"])
    try:
        await larder.readiness.value()
    except Exception as error:
        if detailed:
            raise
        raise Problem("database-unavailable", _NOT_READY) from error
    if not detailed:
        return JSONResponse({"status": "ready"}, headers=_HEADERS)
    redis = "up" if larder.store.up else "down"
    found = {"status": "ready", "postgresql": "up", "redis": redis}
    if larder.pair is not None:
        held = larder.pair.buckets
        found |= {"buckets": held.ranges, "moving": ranges_of(held.moving), "configured": larder.pair.configured}
    return JSONResponse(found, headers=_HEADERS)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses=answers({200: PROMETHEUS}, ("internal-error",)),
)
@requires(Scope.OPERATE)
async def metrics(request: Request) -> Response:
    """Return the counters of all workers on this address."""
    return Response(await larder_of(request).metrics(), 200, _HEADERS, CONTENT_TYPE)


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
@requires(Scope.OPERATE)
async def drop_cache_entry(request: Request, product_id: ProductId) -> Response:
    """Drop the entry, whether there is one or not."""
    await products_of(request).drop(checked_id(product_id))
    return Response(status_code=204)

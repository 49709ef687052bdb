"""Whether the process lives, whether it can serve, and what it has counted."""

from fastapi import Request
from starlette.responses import JSONResponse, Response

from app.api.answers import KEEP_NOT
from app.api.direct import direct_router
from app.api.metrics import CONTENT_TYPE, render
from app.api.openapi import PROMETHEUS, Success, answers
from app.api.state import larder_of

router = direct_router("operation")
_HEADERS = {"Cache-Control": KEEP_NOT}


@router.get(
    "/livez",
    operation_id="getLiveness",
    summary="Is the process alive?",
    response_class=Response,
    responses=answers({200: Success("It is")}, ("internal-error",)),
)
async def livez(_request: Request) -> Response:
    """Answer as long as the event loop turns; nothing else is asked."""
    return JSONResponse({"status": "alive"}, headers=_HEADERS)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Can it serve?",
    description="PostgreSQL decides: it has to be the primary, with a schema that this release knows. Redis is only reported:"
    " without it everything works, at PostgreSQL's pace.",
    response_class=Response,
    responses=answers({200: Success("It can")}, ("overloaded", "database-unavailable", "internal-error")),
)
async def readyz(request: Request) -> Response:
    """Ask PostgreSQL for the epoch, within its deadline: on a standby, an old primary or a newer schema there is none."""
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
    """Write the counters of this address, of all its workers."""
    larder = larder_of(request)
    own = larder.tally()
    total = own if larder.shared_metrics is None else larder.shared_metrics.total(own)
    return Response(render(total), 200, _HEADERS, CONTENT_TYPE)

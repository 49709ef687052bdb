"""Single entries of the cache, for whoever operates the service."""

from fastapi import Request
from starlette.responses import Response

from app.api.answers import ProductId, legal
from app.api.direct import direct_router
from app.api.openapi import Success, answers
from app.api.state import products_of

router = direct_router("cache")


@router.delete(
    "/cache/products/{product_id}",
    operation_id="dropCacheEntry",
    summary="Drop a product's entry from the cache",
    description="The product stays as it is; the next read takes it from PostgreSQL. It succeeds with no entry, too.",
    status_code=204,
    response_class=Response,
    responses=answers(
        {204: Success("There is no entry now")}, ("invalid-request", "overloaded", "cache-unavailable", "internal-error")
    ),
)
async def drop_cache_entry(request: Request, product_id: ProductId) -> Response:
    """Drop the entry, absent or not."""
    await products_of(request).drop(legal(product_id))
    return Response(status_code=204)

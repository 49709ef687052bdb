"""Single entries of the cache, for whoever operates the service."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.answers import ProductId
from app.api.openapi import Success, answers
from app.api.state import Products

router = APIRouter(tags=["cache"])


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
async def drop_cache_entry(product_id: ProductId, products: Products) -> Response:
    """Drop the entry, absent or not."""
    await products.drop(product_id)
    return Response(status_code=204)

"""Endpoints of one product: read, replace, change, delete."""

from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response

from app.access.keys import Scope
from app.api.bodies import JSON, MERGE_PATCH
from app.api.conditions import freshness_of, read_conditions
from app.api.context import products_of, reading_of
from app.api.models import ProductPatch, WholeProduct
from app.api.openapi import (
    DELETED,
    NOT_MODIFIED,
    PRODUCT,
    PRODUCT_CREATED,
    PRODUCT_READ,
    WRITE_PROBLEMS,
    answers,
    body,
    patch_media,
)
from app.api.parameters import READ_HEADERS
from app.api.problems import FieldError, invalid, no_product, precondition_failed
from app.api.responses import NO_CACHE, ProductId, cache_status, checked_id, entity_tag, render_product
from app.api.routes import request_router, requires
from app.api.writing import bodiless_request, write_request
from app.cache.ports import Value
from app.products import commands
from app.products.commands import Effect
from app.products.idempotency import Answer

router = request_router("products")


@router.get(
    "/products/{product_id}",
    operation_id="getProduct",
    summary="Read a product",
    description="Read through the cache. `Cache-Status` says how; without `detail=unverified` the answer is current.",
    response_class=Response,
    responses=answers(
        {200: PRODUCT_READ, 304: NOT_MODIFIED},
        ("invalid-header", "product-not-found", "precondition-failed", "invalid-request", "overloaded", "database-unavailable",
         "internal-error"),
    ),
    openapi_extra={"parameters": READ_HEADERS},
)  # fmt: skip
@requires(Scope.PRODUCTS_READ)
async def get_product(request: Request, product_id: ProductId) -> Response:
    """Return the cached bytes, 304, or 404."""
    conditions = read_conditions(request)
    checked_id(product_id)
    freshness = freshness_of(request)
    read = await products_of(request).get(
        product_id, refresh=freshness.refresh, stale_s=freshness.stale_s, reading=reading_of(request)
    )
    state = read.state
    headers = {"Cache-Status": cache_status(read)}
    if not isinstance(state, Value):
        raise no_product([product_id], headers)
    if conditions.if_match is not None and not conditions.if_match.matches_strongly(state.version):
        raise precondition_failed(product_id, state.version)
    headers |= {"ETag": entity_tag(state.version), "Cache-Control": NO_CACHE}
    if conditions.if_none_match is not None and conditions.if_none_match.matches_weakly(state.version):
        return Response(status_code=304, headers=headers)
    return Response(state.payload, 200, headers, JSON)


@router.put(
    "/products/{product_id}",
    operation_id="putProduct",
    summary="Create or replace a product",
    description="Takes a whole product as a GET returns it; `stock` of an existing product needs If-Match.",
    response_class=Response,
    responses=answers(
        {200: PRODUCT, 201: PRODUCT_CREATED},
        (*WRITE_PROBLEMS, "precondition-failed", "precondition-required"),
    ),
    openapi_extra=body("WholeProduct", {"name": "Blue mug", "price_cents": 1299, "reorder_point": 10}, conditional=True),
)
@requires(Scope.PRODUCTS_WRITE)
async def put_product(request: Request, product_id: ProductId) -> Response:
    """Create or replace the product; 201 if there was none."""
    sent = await write_request(request, WholeProduct, product_id)
    if sent.body.id and sent.body.id != product_id:
        raise invalid([FieldError("must be the id in the path; a product cannot be renamed", "#/id")])
    return await sent.answer(commands.Put(sent.body.draft(product_id), sent.condition), render_product)


@router.patch(
    "/products/{product_id}",
    operation_id="patchProduct",
    summary="Change some fields of a product",
    description="RFC 7396 merge patch of `name`, `price_cents` and `reorder_point`; null sets `reorder_point` back to 0.",
    response_class=Response,
    responses=answers({200: PRODUCT}, (*WRITE_PROBLEMS, "product-not-found", "precondition-failed")),
    openapi_extra=patch_media(body("ProductPatch", {"price_cents": 1199}, conditional=True)),
)
@requires(Scope.PRODUCTS_WRITE)
async def patch_product(request: Request, product_id: ProductId) -> Response:
    """Change the given fields. If they have these values already, nothing changes and the version stays."""
    sent = await write_request(request, ProductPatch, product_id, (MERGE_PATCH, JSON))
    return await sent.answer(commands.merge_patch(product_id, sent.body.patch(), sent.condition), render_product)


@router.delete(
    "/products/{product_id}",
    operation_id="deleteProduct",
    summary="Delete a product",
    description="The stock does not matter, but nothing of it may be held. The id can be used again; its version continues.",
    status_code=204,
    response_class=Response,
    responses=answers(
        {204: DELETED},
        ("invalid-header", "product-not-found", "product-reserved", "request-in-progress", "precondition-failed",
         "invalid-request", "idempotency-key-reused", "overloaded", "database-unavailable", "outcome-unknown",
         "internal-error"),
    ),
    openapi_extra=body("", None, conditional=True),
)  # fmt: skip
@requires(Scope.PRODUCTS_WRITE)
async def delete_product(request: Request, product_id: ProductId) -> Response:
    """Delete the product."""
    sent = bodiless_request(request, product_id)
    return await sent.answer(commands.delete(product_id, sent.condition), _render_deletion)


def _render_deletion(_effects: Sequence[Effect]) -> Answer:
    return Answer(204, b"")

"""Endpoints of the stock, which count it, add to it or take from it, and read its ledger."""

import json
from collections.abc import Sequence
from functools import partial

from fastapi import Request
from starlette.responses import Response

from app.access.keys import Scope
from app.api.context import products_of
from app.api.examples import PRODUCT_EXAMPLE
from app.api.list_queries import LedgerQuery, product_ledger, reference_ledger
from app.api.models import StockAdjustment, StockAdjustments, StockCount
from app.api.openapi import ADJUSTED, ADJUSTED_LINES, MOVEMENTS, PRODUCT, WRITE_PROBLEMS, answers, body
from app.api.parameters import MOVEMENT_PARAMETERS, REFERENCE_PARAMETERS
from app.api.responses import (
    ProductId,
    checked_id,
    entity_tag,
    page_response,
    product_of,
    render_document,
    render_product,
)
from app.api.routes import BATCH_COST, LIST_COST, request_router, requires
from app.api.writing import write_request
from app.products import commands
from app.products.commands import Effect
from app.products.idempotency import Answer
from app.products.payload import movement_fields, product_payload
from app.products.product import Line, Reason
from app.products.service import LedgerPage

router = request_router("stock")
_compact = json.JSONEncoder(separators=(",", ":")).encode
_READ_PROBLEMS = ("invalid-request", "overloaded", "database-unavailable", "internal-error")


@router.put(
    "/products/{product_id}/stock",
    operation_id="putStock",
    summary="Set the stock to what was counted",
    description=("The count replaces the stored stock, and the ledger records the difference. Every count raises the version."),
    response_class=Response,
    responses=answers({200: PRODUCT}, (*WRITE_PROBLEMS, "product-not-found", "precondition-failed")),
    openapi_extra=body("StockCount", {"stock": PRODUCT_EXAMPLE["stock"], "reference": "count-7"}, conditional=True),
)
@requires(Scope.STOCK_COUNT)
async def put_stock(request: Request, product_id: ProductId) -> Response:
    """Set the product's stock."""
    sent = await write_request(request, StockCount, product_id)
    return await sent.answer(
        commands.set_stock(product_id, sent.body.stock, sent.condition, sent.body.reference), render_product
    )


@router.post(
    "/products/{product_id}/stock/adjustments",
    operation_id="adjustStock",
    summary="Add to a product's stock, or take from it",
    description=(
        "PostgreSQL decides under the row's lock, so the stock never falls below zero, and units that a reservation holds are"
        " taken only with `take_reserved`. With an Idempotency-Key the request can"
        " be repeated safely."
    ),
    response_class=Response,
    responses=answers(
        {200: ADJUSTED},
        (*WRITE_PROBLEMS, "product-not-found", "precondition-failed", "insufficient-stock", "stock-limit"),
    ),
    openapi_extra=body("StockAdjustment", {"delta": -3, "reason": "sale", "reference": "order-17"}, conditional=True),
)
@requires(Scope.STOCK_ADJUST)
async def adjust_stock(request: Request, product_id: ProductId) -> Response:
    """Adjust the stock of one product."""
    sent = await write_request(request, StockAdjustment, product_id)
    lines = [Line(product_id, sent.body.delta)]
    return await sent.answer(
        commands.Adjust(
            lines, Reason(sent.body.reason), sent.body.reference, sent.condition, take_reserved=sent.body.take_reserved
        ),
        _render_adjustment,
    )


def _render_adjustment(effects: Sequence[Effect]) -> Answer:
    [effect] = effects
    product, [movement] = product_of(effect), effect.movements()
    entry = _compact(movement_fields(movement)).encode()
    body = b'{"product":' + product_payload(product) + b',"movement":' + entry + b"}"
    return Answer(200, body, entity_tag(product.version))


@router.post(
    "/stock/adjustments",
    operation_id="adjustStocks",
    summary="Add to and take from several stocks: all lines or none",
    description=(
        "All lines are applied in one transaction. A product may have several lines: their sum is checked, and each line has"
        " its own entry in the ledger. Every line of the answer has the final stock and version of its product."
    ),
    response_class=Response,
    responses=answers(
        {200: ADJUSTED_LINES},
        (*WRITE_PROBLEMS, "several-pairs", "product-not-found", "insufficient-stock", "stock-limit"),
    ),
    openapi_extra=body(
        "StockAdjustments",
        {"lines": [{"product_id": "mug-blue", "delta": -3}], "reason": "sale", "reference": "order-17"},
    ),
)
@requires(Scope.STOCK_ADJUST, BATCH_COST)
async def adjust_stocks(request: Request) -> Response:
    """Adjust the stocks of several products."""
    sent = await write_request(request, StockAdjustments)
    lines = [Line(line.product_id, line.delta) for line in sent.body.lines]
    return await sent.answer(
        commands.Adjust(lines, Reason(sent.body.reason), sent.body.reference, take_reserved=sent.body.take_reserved),
        partial(_render_lines, lines),
    )


def _render_lines(lines: Sequence[Line], effects: Sequence[Effect]) -> Answer:
    after = {product.id: product for product in map(product_of, effects)}
    listed = [
        {
            "product_id": line.product_id,
            "delta": line.delta,
            "stock": after[line.product_id].stock,
            "version": after[line.product_id].version,
        }
        for line in lines
    ]
    return render_document({"lines": listed})


@router.get(
    "/products/{product_id}/stock/movements",
    operation_id="listProductMovements",
    summary="Read a product's stock ledger",
    description="The newest movements come first, from PostgreSQL. The sum of all deltas is the stock. A deleted product keeps"
    " its ledger.",
    response_class=Response,
    responses=answers({200: MOVEMENTS}, (*_READ_PROBLEMS, "product-not-found")),
    openapi_extra={"parameters": MOVEMENT_PARAMETERS},
)
@requires(Scope.LEDGER_READ, LIST_COST)
async def list_product_movements(request: Request, product_id: ProductId) -> Response:
    """Return a page of one product's movements."""
    query = product_ledger(request, checked_id(product_id))
    return _page(query, await products_of(request).movements(query.owner, limit=query.limit, after=query.after))


@router.get(
    "/stock/movements",
    operation_id="listMovements",
    summary="Read the movements with a reference",
    description="The movements of all products whose request had this reference, newest first, from PostgreSQL.",
    response_class=Response,
    responses=answers({200: MOVEMENTS}, _READ_PROBLEMS),
    openapi_extra={"parameters": REFERENCE_PARAMETERS},
)
@requires(Scope.LEDGER_READ, LIST_COST)
async def list_movements(request: Request) -> Response:
    """Return a page of one reference's movements, which is empty if no request had the reference."""
    query = reference_ledger(request)
    return _page(query, await products_of(request).movements_by_reference(query.owner, limit=query.limit, after=query.after))


def _page(query: LedgerQuery, page: LedgerPage) -> Response:
    items = [_compact(movement_fields(movement)).encode() for movement in page.items]
    return page_response(items, query.next_page(page.next) if page.next else None)

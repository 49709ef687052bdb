"""Endpoints of the collection: create, read many, list, and create or replace many."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from starlette.responses import Response

from app.access.keys import Scope
from app.api.bodies import validate
from app.api.conditions import freshness_of
from app.api.context import check_pair, larder_of, products_of
from app.api.examples import BATCH_EXAMPLE
from app.api.list_queries import ProductsById, product_query
from app.api.models import Batch, NewProduct, WholeProduct
from app.api.openapi import BATCH_RESULTS, PRODUCT_CREATED, PRODUCTS, WRITE_PROBLEMS, answers, body
from app.api.parameters import LIST_PARAMETERS
from app.api.problems import MAX_ERRORS, Problem, invalid
from app.api.responses import cache_status_of_many, json_list, page_response, render_document, render_product
from app.api.routes import BATCH_COST, LIST_COST, request_router, requires
from app.api.writing import write_request
from app.cache.ports import Value
from app.products import commands
from app.products.commands import Effect
from app.products.idempotency import Answer
from app.products.product import Draft, is_product_id

router = request_router("products")
_MAX_BATCH_ERRORS = 1_000
"""Most errors that the answer to a batch lists in total. Beyond that it lists the first one of each refused item."""
_COST_AT_ONCE = 300
"""Items and errors after which other requests are served. An error takes about as long as a valid item."""


@router.get(
    "/products",
    operation_id="listProducts",
    summary="Read many products, or list them",
    description=(
        "With `id` (up to 250 times), the answer has those products, read through the cache in one round trip. Otherwise it is"
        " a page of the list, read from PostgreSQL: by id, or with `q` (a prefix of the name, ignoring case) by name."
        " `below_reorder_point=true` keeps only products below that point, and `uncovered=true` those of which more is held"
        " than is there, always by id."
    ),
    response_class=Response,
    responses=answers(
        {200: PRODUCTS}, ("invalid-request", "several-pairs", "overloaded", "database-unavailable", "internal-error")
    ),
    openapi_extra={"parameters": LIST_PARAMETERS},
)
@requires(Scope.PRODUCTS_READ, LIST_COST)
async def list_products(request: Request) -> Response:
    """Read many products, or a page of the list."""
    query, freshness, products = product_query(request), freshness_of(request), products_of(request)
    if isinstance(query, ProductsById):
        check_pair(request, query.ids)
        reads = await products.get_many(query.ids, refresh=freshness.refresh, stale_s=freshness.stale_s)
        found = [read.state.payload for read in reads if isinstance(read.state, Value)]
        missing = [read.state.key for read in reads if not isinstance(read.state, Value)]
        return json_list("items", found, "missing", missing, {"Cache-Status": cache_status_of_many(reads)})
    page = await products.list_page(
        limit=query.limit,
        after=query.after,
        prefix=query.prefix,
        below_reorder_point=query.below_reorder_point,
        uncovered=query.uncovered,
    )
    return page_response(page.items, query.next_page(page.next) if page.next else None)


@router.post(
    "/products",
    operation_id="createProduct",
    summary="Create a product",
    status_code=201,
    response_class=Response,
    responses=answers({201: PRODUCT_CREATED}, (*WRITE_PROBLEMS, "already-exists")),
    openapi_extra=body("NewProduct", {"name": "Green mug", "price_cents": 1399, "stock": 25, "reorder_point": 5}),
)
@requires(Scope.PRODUCTS_WRITE)
async def create_product(request: Request) -> Response:
    """Create a product. If the id is left out, a new one is made; a retry with the same key gets the same id."""
    sent = await write_request(request, NewProduct)
    made = sent.body.id or sent.made_ids(())()
    return await sent.answer(commands.Create(sent.body.draft(made)), render_product)


@router.post(
    "/products/batch",
    operation_id="batchProducts",
    summary="Create or replace many products",
    description=(
        "Each item is checked and refused separately; the accepted ones are applied in one transaction. A `stock` in an item"
        " is a count: it replaces the stored stock."
    ),
    response_class=Response,
    responses=answers({200: BATCH_RESULTS}, (*WRITE_PROBLEMS, "several-pairs")),
    openapi_extra=body("Batch", BATCH_EXAMPLE),
)
@requires(Scope.PRODUCTS_WRITE, BATCH_COST)
async def batch_products(request: Request) -> Response:
    """Check each item, write the valid ones together, and return a result for each, in their order."""
    sent = await write_request(request, Batch)
    async with larder_of(request).large_bodies:
        named = {item["id"] for item in sent.body.items if isinstance(item, dict) and isinstance(item.get("id"), str)}
        checked = await _check_items(sent.body.items, sent.made_ids(named))
    drafts = [item.draft for item in checked if item.draft is not None]
    return await sent.answer(commands.Upsert(drafts), partial(_render_batch, checked))


def _render_batch(items: "Sequence[_Item]", effects: Sequence[Effect]) -> Answer:
    accepted = iter(effects)
    results = [
        _refusal(index, item) if item.draft is None else _result(index, item.draft, next(accepted))
        for index, item in enumerate(items)
    ]
    return render_document({"results": results})


@dataclass(frozen=True, slots=True)
class _Item:
    """One checked item, with the product to write or the problem with it."""

    id: str | None
    draft: Draft | None = None
    problem: Problem | None = None


async def _check_items(items: Sequence[object], made_id: Callable[[], str]) -> list[_Item]:
    seen: dict[str, int] = {}
    checked = []
    left = _MAX_BATCH_ERRORS
    cost = 0
    for index, item in enumerate(items):
        if cost > _COST_AT_ONCE:
            await asyncio.sleep(0)
            cost = 0
        cost += 1
        sent = item.get("id") if isinstance(item, dict) else None
        product_id = sent if isinstance(sent, str) and is_product_id(sent) else None
        if product_id is not None and seen.setdefault(product_id, index) != index:
            checked.append(_Item(product_id, problem=_repetition(product_id, seen[product_id])))
            continue
        whole = validate(WholeProduct, item, ("items", index))
        if isinstance(whole, list):
            cost += len(whole)
            most = max(1, min(MAX_ERRORS, left))
            left -= min(most, len(whole))
            checked.append(_Item(product_id, problem=invalid(whole, most)))
        else:
            product_id = product_id or made_id()
            checked.append(_Item(product_id, draft=whole.draft(product_id)))
    return checked


def _repetition(product_id: str, first: int) -> Problem:
    return Problem(
        "repeated-product",
        f"Item {first} of this batch has the id {product_id} already; this item was left out. Send each id once.",
    )


def _refusal(index: int, item: _Item) -> dict[str, object]:
    problem = item.problem.document() if item.problem else None
    return {"index": index, "id": item.id, "outcome": "refused", "problem": problem}


def _result(index: int, draft: Draft, effect: Effect) -> dict[str, object]:
    return {"index": index, "id": draft.id, "outcome": effect.change.value, "version": effect.row.version}

"""``larder serve`` that also caches suppliers, and draws a write policy for every write. ``suppliers_program`` starts it.

It takes the settings of ``larder serve`` from the environment, and the policies from ``LARDER_TEST_POLICIES``, separated by
commas; if that is empty, all of them. It imports nothing of the tests, so that it starts as fast as the service does.
"""

import importlib
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from pydantic import BaseModel

from app.cache import Entity, Read, Session, State, Status, Value
from app.cache.policies import WritePolicy
from app.cache.write_through import WriteThrough
from app.cli import main
from app.products.source import PRODUCTS
from app.settings import Settings, namespace_of

_STATUS = {Status.HIT: "larder; hit", Status.MISS: "larder; fwd=miss", Status.STORED: "larder; fwd=miss; stored"}
_PUT = (
    "INSERT INTO suppliers (id, name, terms) VALUES (%(id)s, %(name)s, %(terms)s)"
    " ON CONFLICT (id) DO UPDATE SET terms = %(terms)s"
)
_SET = "UPDATE suppliers SET terms = %(terms)s WHERE id = %(id)s RETURNING 1"
_SET_PRICE = "UPDATE products SET price_cents = %(terms)s WHERE id = %(product)s AND deleted_at IS NULL RETURNING 1"
_DELETE = "DELETE FROM suppliers WHERE id = %(id)s AND version = %(version)s RETURNING 1"


def _payload(**columns: object) -> bytes:
    order = ("id", "name", "terms", "version")
    return json.dumps({name: columns[name] for name in order}, separators=(",", ":")).encode()


SUPPLIERS = Entity(namespace="suppliers", schema=1, table="suppliers", key="id", columns=("name", "terms"), payload=_payload)
router = APIRouter()


class Terms(BaseModel):
    """What a client sets."""

    terms: int


def _answer(states: Sequence[State], status: str = "") -> Response:
    """The rows of all states that have one."""
    bodies = [state.payload for state in states if isinstance(state, Value)]
    headers = {"Cache-Status": status} if status else {}
    return Response(b"[" + b",".join(bodies) + b"]", media_type="application/json", headers=headers)


def _status(reads: Sequence[Read]) -> str:
    worst = next((read.status for read in reads if read.status is not Status.HIT), Status.HIT)
    return _STATUS.get(worst, "larder; fwd=bypass")


@router.get("/suppliers")
async def get_suppliers(request: Request, id: Annotated[list[str], Query()]) -> Response:  # noqa: A002
    """Read suppliers in one round trip."""
    refresh = request.headers.get("cache-control") == "no-cache"
    reads = await request.app.state.caches[SUPPLIERS].read_many(id, refresh=refresh)
    return _answer([read.state for read in reads], _status(reads))


async def _write(request: Request, statement: str, parameters: dict[str, Any], *, product: str = "") -> Response:
    """Run a statement, and in the same transaction, where a product is named, one that sets its price."""

    async def change(session: Session) -> None:
        found = await session.rows(statement, parameters)
        if "RETURNING" in statement and not found:
            raise HTTPException(404)
        if product and not await session.rows(_SET_PRICE, {**parameters, "product": product}):
            raise HTTPException(404)

    caches = request.app.state.caches
    wanted = {SUPPLIERS: [parameters["id"]], **({PRODUCTS: [product]} if product else {})}
    written = await caches.write(wanted, change)
    return _answer([state for states in written.values() for state in states.values()])


@router.put("/suppliers/{id}")
async def put_supplier(request: Request, id: str, body: Terms) -> Response:  # noqa: A002
    """Create a supplier, or change it."""
    return await _write(request, _PUT, {"id": id, "name": f"e0 {id}", "terms": body.terms})


@router.put("/suppliers/{id}/products/{product}")
async def put_both(request: Request, id: str, product: str, body: Terms) -> Response:  # noqa: A002
    """Change a supplier and a product in one commit."""
    return await _write(request, _SET, {"id": id, "terms": body.terms}, product=product)


@router.delete("/suppliers/{id}")
async def delete_supplier(request: Request, id: str) -> Response:  # noqa: A002
    """Delete the version of a supplier that ``If-Match`` names."""
    version = int(request.headers["if-match"].strip('"'))
    return await _write(request, _DELETE, {"id": id, "version": version})


@router.delete("/cache/suppliers/{id}", status_code=204)
async def invalidate(request: Request, id: str) -> None:  # noqa: A002
    """Drop a supplier's slot."""
    await request.app.state.caches[SUPPLIERS].invalidate(id)


def _draw_policies(names: str) -> None:
    policies = [WritePolicy(name) for name in names.split(",")] if names else list(WritePolicy)
    chance, lease = random.Random(), WriteThrough.lease

    async def drawn(cache: WriteThrough, keys: Sequence[str], policy: WritePolicy | None = None) -> Any:
        del policy
        return await lease(cache, keys, chance.choice(policies))

    type.__setattr__(WriteThrough, "lease", drawn)


def _add_suppliers() -> None:
    """Let the composition root open a second cache beside that of the products, and serve its routes."""
    composition: Any = importlib.import_module("app.main")
    create_app, open_caches, open_database = composition.create_app, composition.open_caches, composition.Database
    made: list[tuple[Settings, FastAPI]] = []

    @asynccontextmanager
    async def open_both(database: Any, redis: Any, entities: Sequence[Entity], **options: Any) -> AsyncIterator[Any]:
        settings, app = made[-1]
        suppliers = replace(SUPPLIERS, namespace=namespace_of(settings.cache_namespace, SUPPLIERS.table))
        async with open_caches(database, redis, [*entities, suppliers], **options) as caches:
            app.state.caches = caches
            yield caches

    def create(settings: Settings, *others: Any) -> FastAPI:
        app: FastAPI = create_app(settings, *others)
        app.include_router(router)
        made.append((settings, app))
        return app

    changes = {"create_app": create, "open_caches": open_both, "Database": partial(open_database, further_audits=1)}
    for name, value in changes.items():
        setattr(composition, name, value)


def _serve() -> int:
    _draw_policies(os.environ.pop("LARDER_TEST_POLICIES", ""))
    _add_suppliers()
    return main(["serve"])


if __name__ == "__main__":
    sys.exit(_serve())

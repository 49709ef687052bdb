"""A service that caches a table of its own, as a developer writes it. A test runs it as it stands."""

# ruff: noqa: A002 - the example is short, so that it can be read at a glance

import json

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field

from app.cache import Entity, Session, State, Value, cached_table

MIGRATION = (
    'CREATE TABLE suppliers (id text COLLATE "C" PRIMARY KEY, name text NOT NULL, terms integer NOT NULL)',
    cached_table("suppliers", key="id", release=1),
)


def payload(id: str, version: int, name: str, terms: int) -> bytes:
    """The body of a GET: a function of the row alone. A change here raises the entity's schema number."""
    return json.dumps({"id": id, "name": name, "terms": terms, "version": version}).encode()


SUPPLIERS = Entity(namespace="suppliers", schema=1, table="suppliers", key="id", columns=("name", "terms"), payload=payload)
router = APIRouter()


class Terms(BaseModel):
    terms: int = Field(ge=0, le=365)


def answer(state: State, **headers: str) -> Response:
    if not isinstance(state, Value):
        raise HTTPException(404)
    return Response(state.payload, media_type="application/json", headers={"ETag": f'"{state.version}"', **headers})


@router.get("/suppliers/{id}")
async def get_supplier(request: Request, id: str) -> Response:
    read = await request.app.state.caches[SUPPLIERS].read(id)
    return answer(read.state, **{"Cache-Status": f"larder; {read.status}"})


@router.put("/suppliers/{id}/terms")
async def set_terms(request: Request, id: str, body: Terms) -> Response:
    async def change(db: Session) -> None:  # runs inside the transaction; what it raises rolls back and reaches the caller
        if not await db.rows("UPDATE suppliers SET terms = %(t)s WHERE id = %(id)s RETURNING 1", {"t": body.terms, "id": id}):
            raise HTTPException(404)

    states = await request.app.state.caches[SUPPLIERS].write([id], change, ttl_s=600)
    return answer(states[id])


@router.delete("/cache/suppliers/{id}", status_code=204)
async def invalidate(request: Request, id: str) -> None:
    await request.app.state.caches[SUPPLIERS].invalidate(id)

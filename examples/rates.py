"""A hotel's rates over HTTP, cached by the wheel `larder-cache`: run `uvicorn rates:app`. docs/EMBEDDING.md is the guide."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from decimal import Decimal

from fastapi import FastAPI, HTTPException, Request, Response
from larder_cache import (
    Cache,
    CacheError,
    DatabaseError,
    DataRefused,
    Entity,
    InvalidKey,
    Session,
    State,
    Value,
    cache_tables,
    cached_table,
    open_caches,
)
from pydantic import BaseModel

MIGRATION = (
    """CREATE TABLE rates (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, room text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price > 0), valid_from date NOT NULL, note text)""",
    cache_tables(release=1),
    cached_table("rates", key="number", release=1),
)


def payload(*, number: int, version: int, room: str, price: Decimal, valid_from: date, note: str | None) -> bytes:
    """Return the body of a GET: a function of the row alone."""
    row = {"number": number, "room": room, "price": str(price), "valid_from": valid_from.isoformat(), "note": note}
    return json.dumps({**row, "version": version}).encode()


RATES = Entity(
    namespace="hotel.rates",
    schema=1,
    table="rates",
    key="number",
    key_type="bigint",
    columns=("room", "price", "valid_from", "note"),
    payload=payload,
)


class Rate(BaseModel):
    """A new rate."""

    room: str
    price: Decimal
    valid_from: date
    note: str | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the cache open while the service runs."""
    async with open_caches(os.environ["DATABASE_URL"], os.environ["REDIS_URL"], [RATES]) as caches:
        app.state.rates = caches[RATES]
        yield


app = FastAPI(lifespan=lifespan)


def cache_of(request: Request) -> Cache:
    """Return the cache of the rates."""
    cache: Cache = request.app.state.rates
    return cache


def answer(state: State, status: int = 200, cache_status: str = "none") -> Response:
    """Return a rate as it is cached, or 404."""
    headers = {"Cache-Status": f"rates; {cache_status}"}
    if not isinstance(state, Value):
        raise HTTPException(404, headers=headers)
    return Response(state.payload, status, {"ETag": f'"{state.version}"', **headers}, "application/json")


@app.get("/rates/{number}")
async def get_rate(request: Request, number: int) -> Response:
    """Read a rate: from Redis if that is proven current, from PostgreSQL otherwise."""
    read = await cache_of(request).read(number)
    return answer(read.state, cache_status=read.status)


@app.post("/rates", status_code=201)
async def add_rate(request: Request, rate: Rate) -> Response:
    """Add a rate, whose number the database draws."""
    numbers: list[int] = []

    async def add(db: Session) -> None:
        [[number]] = await db.rows(
            "INSERT INTO rates (room, price, valid_from, note) VALUES (%(room)s, %(price)s, %(valid_from)s, %(note)s)"
            " RETURNING number",
            rate.model_dump(),
        )
        numbers.append(number)

    await cache_of(request).write([], add)
    return answer((await cache_of(request).read(numbers[0])).state, 201)


@app.put("/rates/{number}/price")
async def set_price(request: Request, number: int, price: Decimal) -> Response:
    """Change a price."""

    async def change(db: Session) -> None:  # what it raises rolls back and reaches the caller
        statement = "UPDATE rates SET price = %(price)s WHERE number = %(number)s RETURNING 1"
        if not await db.rows(statement, {"price": price, "number": number}):
            raise HTTPException(404)

    return answer((await cache_of(request).write([number], change))[number])


@app.delete("/rates/{number}", status_code=204)
async def delete_rate(request: Request, number: int) -> None:
    """Delete a rate. Its versions go on if it ever comes back."""

    async def delete(db: Session) -> None:
        await db.rows("DELETE FROM rates WHERE number = %(number)s", {"number": number})

    await cache_of(request).write([number], delete)


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    """Tell that the service has started. It serves without Redis, so that is not asked for."""
    return {"ready": True}


@app.exception_handler(CacheError)
@app.exception_handler(DatabaseError)
async def failed(_request: Request, error: Exception) -> Response:
    """Answer an error of the cache or of the database with the status that the guide advises."""
    status = 404 if isinstance(error, InvalidKey) else 422 if isinstance(error, DataRefused) else 503
    return Response(f"{type(error).__name__}: {error}", status, media_type="text/plain")

"""The textbook's reservations: they lock the product, add up what is held, and insert a row; a job ends what is over.

A product is cached as JSON with its free units, and dropped after each commit. The sum has an index of its own.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel
from redis.asyncio import Redis
from sqlalchemy import TextClause, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

TTL_S = int(os.environ.get("PEER_TTL_S", "60"))
SWEEP_S = float(os.environ.get("PEER_SWEEP_S", "60"))
"""Seconds between two runs of the job that ends what is over: a minute, the shortest time that cron has."""

TABLES = (
    text(
        """
        CREATE TABLE IF NOT EXISTS holds (
            id text PRIMARY KEY, product_id text COLLATE "C" NOT NULL, quantity bigint NOT NULL,
            expires_at timestamptz NOT NULL, status text NOT NULL DEFAULT 'held'
        )
        """
    ),
    text("CREATE INDEX IF NOT EXISTS ix_holds ON holds (product_id) INCLUDE (quantity) WHERE status = 'held'"),
    text("CREATE INDEX IF NOT EXISTS ix_holds_end ON holds (expires_at) WHERE status = 'held'"),
)
_LOCK = text("SELECT stock FROM products WHERE id = :id FOR UPDATE")
_SUM = text("SELECT coalesce(sum(quantity), 0)::bigint FROM holds WHERE product_id = :id AND status = 'held'")
_HOLD = text(
    "INSERT INTO holds (id, product_id, quantity, expires_at) VALUES (:id, :product, :quantity, now() + :life * interval '1 s')"
)
_FIND = text("SELECT product_id, quantity, status, expires_at <= now() AS over FROM holds WHERE id = :id FOR UPDATE")
_SELL = text(
    "UPDATE products SET stock = stock - :quantity, version = version + 1, updated_at = now() WHERE id = :id RETURNING stock"
)
_MOVE = text("INSERT INTO stock_movements (product_id, delta, stock_after, reason) VALUES (:id, -:quantity, :stock, 'sale')")
_CLOSE = text("UPDATE holds SET status = 'committed' WHERE id = :id")
_SWEEP = text("UPDATE holds SET status = 'expired' WHERE status = 'held' AND expires_at <= now() RETURNING product_id")
_READ = text("SELECT id, name, price_cents, stock, version FROM products WHERE id = :id")

_engine = create_async_engine(
    make_url(os.environ["PEER_DATABASE_URL"]).set(drivername="postgresql+psycopg"),
    pool_size=20,
    max_overflow=0,
    connect_args={"options": os.environ.get("PEER_DEADLINES", "")},
)
_redis = Redis.from_url(os.environ["PEER_REDIS_URL"], socket_timeout=0.25, socket_connect_timeout=0.25)


class Line(BaseModel):
    """Units of a product."""

    product_id: str
    quantity: int


class Wanted(BaseModel):
    """What to hold, and for how long."""

    lines: list[Line]
    expires_in_s: int


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with _engine.begin() as connection:
        for statement in TABLES:
            await connection.execute(statement)
    sweeper = asyncio.create_task(_sweep())
    yield
    sweeper.cancel()
    with suppress(asyncio.CancelledError):
        await sweeper
    await _redis.aclose()
    await _engine.dispose()


app = FastAPI(lifespan=_lifespan, openapi_url=None)


@app.post("/reservations")
async def hold(body: Wanted) -> Response:
    made = uuid4().hex
    [line] = body.lines
    async with _engine.begin() as connection:
        stock = await _value(connection, _LOCK, line.product_id)
        if stock - await _value(connection, _SUM, line.product_id) < line.quantity:
            raise HTTPException(409)
        parameters = {"id": made, "product": line.product_id, "quantity": line.quantity, "life": body.expires_in_s}
        await connection.execute(_HOLD, parameters)
    await _drop([line.product_id])
    return Response(f'{{"id":"{made}"}}', 201, media_type="application/json")


@app.post("/reservations/{hold_id}/commit")
async def commit(hold_id: str) -> Response:
    async with _engine.begin() as connection:
        found = (await connection.execute(_FIND, {"id": hold_id})).mappings().one_or_none()
        if found is None:
            raise HTTPException(404)
        if found["status"] != "held" or found["over"]:
            raise HTTPException(409)
        units = {"id": found["product_id"], "quantity": found["quantity"]}
        stock = (await connection.execute(_SELL, units)).scalar_one()
        await connection.execute(_MOVE, units | {"stock": stock})
        await connection.execute(_CLOSE, {"id": hold_id})
    await _drop([found["product_id"]])
    return Response(f'{{"id":"{hold_id}"}}', media_type="application/json")


@app.get("/products/{product_id}")
async def get_product(product_id: str) -> Response:
    cached = await _redis.get(_key(product_id))
    if cached is None:
        cached = await _load(product_id)
        await _redis.setex(_key(product_id), TTL_S, cached)
    return Response(cached, media_type="application/json")


@app.get("/readyz")
async def ready() -> Response:
    async with _engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    return Response()


async def _load(product_id: str) -> str:
    async with _engine.connect() as connection:
        row = (await connection.execute(_READ, {"id": product_id})).mappings().one_or_none()
        if row is None:
            raise HTTPException(404)
        free = row["stock"] - await _value(connection, _SUM, product_id)
    return Product(**row, available=free).model_dump_json()


class Product(BaseModel):
    """A product, as it is answered and cached."""

    id: str
    name: str
    price_cents: int
    stock: int
    version: int
    available: int


async def _value(connection: AsyncConnection, statement: TextClause, product_id: str) -> int:
    value = (await connection.execute(statement, {"id": product_id})).scalar_one_or_none()
    if value is None:
        raise HTTPException(404)
    return int(value)


async def _sweep() -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        async with _engine.begin() as connection:
            ended = (await connection.execute(_SWEEP)).scalars().all()
        await _drop(sorted(set(ended)))


async def _drop(product_ids: Sequence[str]) -> None:
    if product_ids:
        await _redis.delete(*(_key(product_id) for product_id in product_ids))


def _key(product_id: str) -> str:
    return f"product:{product_id}"

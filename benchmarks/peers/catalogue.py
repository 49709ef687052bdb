"""What the peers share: the products in PostgreSQL, without any cache, and the endpoints around whatever they cache with.

Statements are one round trip for a read and the usual three for a write. Deadlines are those that Larder runs with beside
them, by default in the outages, so that nobody waits longer for PostgreSQL than anybody else.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel
from sqlalchemy import RowMapping, TextClause, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

TTL_S = int(os.environ.get("PEER_TTL_S", "60"))
"""How long the peers keep an entry. Their documentation's examples keep it for minutes and hours: a minute is kinder."""

_COLUMNS = "id, name, price_cents, stock, reorder_point, version, created_at, updated_at"
_READ = text(f"SELECT {_COLUMNS} FROM products WHERE id = :id AND deleted_at IS NULL")  # noqa: S608 - names of this file


def _update(assignment: str, condition: str = "true") -> TextClause:
    # The version as Larder's trigger counts it, too, where the table is Larder's.
    return text(
        f"UPDATE products SET {assignment}, version = version + 1, updated_at = statement_timestamp()"  # noqa: S608 - as above
        f" WHERE id = :id AND deleted_at IS NULL AND {condition} RETURNING {_COLUMNS}"
    )


_COUNT = _update("stock = :stock")
_REPRICE = _update("price_cents = :price_cents")
_ADJUST = _update("stock = stock + :delta", "stock + :delta >= 0")

_DEADLINES = os.environ.get("PEER_DEADLINES", "-c statement_timeout=1000 -c lock_timeout=800")
# As many connections as can be of use with two cores; kept, because opening one costs more than a statement.
_engine = create_async_engine(
    make_url(os.environ["PEER_DATABASE_URL"]).set(drivername="postgresql+psycopg"),
    pool_size=20,
    max_overflow=0,
    pool_timeout=2,
    connect_args={"connect_timeout": 2, "options": _DEADLINES},
)
_reading = _engine.execution_options(isolation_level="AUTOCOMMIT")


class Product(BaseModel):
    """A product, as it is answered and cached."""

    id: str
    name: str
    price_cents: int
    stock: int
    reorder_point: int
    version: int
    created_at: datetime
    updated_at: datetime


class Count(BaseModel):
    """The body of a physical count."""

    stock: int


class Price(BaseModel):
    """The body of a change of price."""

    price_cents: int


class Adjustment(BaseModel):
    """The body of an adjustment."""

    delta: int


async def load(product_id: str) -> Product:
    """Read a product from PostgreSQL. Raises 404."""
    async with _reading.connect() as connection:
        return _product((await connection.execute(_READ, {"id": product_id})).mappings().one_or_none())


async def count(product_id: str, stock: int) -> Product:
    """Set a product's stock, commit, and return the product as committed. Raises 404."""
    return await _change(_COUNT, {"id": product_id, "stock": stock})


async def reprice(product_id: str, price_cents: int) -> Product:
    """Set a product's price, commit, and return the product as committed. Raises 404."""
    return await _change(_REPRICE, {"id": product_id, "price_cents": price_cents})


async def adjust(product_id: str, delta: int) -> Product:
    """Add to a product's stock, commit, and return the product as committed. Raises 404, also if the stock does not suffice."""
    return await _change(_ADJUST, {"id": product_id, "delta": delta})


async def _change(statement: TextClause, parameters: dict[str, object]) -> Product:
    async with _engine.begin() as connection:
        row = (await connection.execute(statement, parameters)).mappings().one_or_none()
    return _product(row)


Change = Callable[[str, int], Awaitable[Product]]


def service(
    read: Callable[[str], Awaitable[Product]] | None,
    write: Change,
    close: Callable[[], Awaitable[object]],
    *,
    reprice: Change | None = None,
    adjust: Change | None = None,
) -> FastAPI:
    """The HTTP service around what a peer gives; ``close`` is awaited at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await close()
        await _engine.dispose()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    if read is not None:

        @app.get("/products/{product_id}")
        async def get_product(product_id: str) -> Response:
            return _answer(await read(product_id))

    @app.put("/products/{product_id}/stock")
    async def set_stock(product_id: str, body: Count) -> Response:
        return _answer(await write(product_id, body.stock))

    if reprice is not None:

        @app.patch("/products/{product_id}")
        async def set_price(product_id: str, body: Price) -> Response:
            return _answer(await reprice(product_id, body.price_cents))

    if adjust is not None:

        @app.post("/products/{product_id}/stock/adjustments")
        async def adjust_stock(product_id: str, body: Adjustment) -> Response:
            return _answer(await adjust(product_id, body.delta))

    @app.get("/readyz")
    async def ready() -> Response:
        async with _reading.connect() as connection:
            await connection.execute(text("SELECT 1"))
        return Response()

    return app


def _product(row: RowMapping | None) -> Product:
    if row is None:
        raise HTTPException(404)
    return Product.model_construct(**row)


def _answer(product: Product) -> Response:
    return Response(product.model_dump_json(), media_type="application/json", headers={"ETag": f'"{product.version}"'})

"""What the peers share: the products in PostgreSQL, without any cache, and the endpoints around whatever they cache with.

Statements are one round trip for a read and the usual three for a write. Deadlines are those that Larder runs with in the
outages, so that nobody waits longer for PostgreSQL than anybody else.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel
from sqlalchemy import RowMapping, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

TTL_S = 60
"""How long the peers keep an entry. Their documentation's examples keep it for minutes and hours: this is kinder."""

_COLUMNS = "id, name, price_cents, stock, reorder_point, version, created_at, updated_at"
_READ = text(f"SELECT {_COLUMNS} FROM products WHERE id = :id AND deleted_at IS NULL")  # noqa: S608 - names of this file
_COUNT = text(
    f"UPDATE products SET stock = :stock WHERE id = :id AND deleted_at IS NULL RETURNING {_COLUMNS}"  # noqa: S608 - as above
)

_engine = create_async_engine(
    make_url(os.environ["PEER_DATABASE_URL"]).set(drivername="postgresql+psycopg"),
    pool_size=10,
    max_overflow=10,
    pool_timeout=2,
    connect_args={"connect_timeout": 2, "options": "-c statement_timeout=1000 -c lock_timeout=800"},
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


async def load(product_id: str) -> Product:
    """Read a product from PostgreSQL. Raises 404."""
    async with _reading.connect() as connection:
        return _product((await connection.execute(_READ, {"id": product_id})).mappings().one_or_none())


async def count(product_id: str, stock: int) -> Product:
    """Set a product's stock, commit, and return the product as committed. Raises 404."""
    async with _engine.begin() as connection:
        row = (await connection.execute(_COUNT, {"id": product_id, "stock": stock})).mappings().one_or_none()
    return _product(row)


def service(
    read: Callable[[str], Awaitable[Product]],
    write: Callable[[str, int], Awaitable[Product]],
    close: Callable[[], Awaitable[object]],
) -> FastAPI:
    """The HTTP service around a cached read and a write; ``close`` is awaited at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await close()
        await _engine.dispose()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get("/products/{product_id}")
    async def get_product(product_id: str) -> Response:
        return _answer(await read(product_id))

    @app.put("/products/{product_id}/stock")
    async def set_stock(product_id: str, body: Count) -> Response:
        return _answer(await write(product_id, body.stock))

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

"""The textbook's service as it is mostly written: ORM and redis-py, both synchronous, in FastAPI's threads.

A read: Redis, else PostgreSQL and ``SETEX``. A write: lock the row, change it, add a row to the ledger, commit, ``SETEX``.
Tuned where it costs the reader of the code nothing: a connection for every thread, hiredis, cached bytes answered as they are.
"""

import os
from datetime import UTC, datetime

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict
from redis import Redis
from sqlalchemy import create_engine, func, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

TTL_S = int(os.environ.get("PEER_TTL_S", "60"))
_THREADS = 40
"""As many as FastAPI has for synchronous endpoints."""

_engine = create_engine(
    make_url(os.environ["PEER_DATABASE_URL"]).set(drivername="postgresql+psycopg"),
    pool_size=_THREADS,
    max_overflow=0,
    connect_args={"options": os.environ.get("PEER_DEADLINES", "")},
)
_sessions = sessionmaker(_engine, expire_on_commit=False)
_redis = Redis.from_url(os.environ["PEER_REDIS_URL"], socket_timeout=0.25, socket_connect_timeout=0.25)


class Base(DeclarativeBase):
    """The tables."""


class ProductRow(Base):
    """A product."""

    __tablename__ = "products"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    price_cents: Mapped[int]
    stock: Mapped[int]
    reorder_point: Mapped[int]
    version: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Movement(Base):
    """An entry of the ledger."""

    __tablename__ = "stock_movements"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[str]
    delta: Mapped[int]
    stock_after: Mapped[int]
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Product(BaseModel):
    """A product, as it is answered and cached."""

    model_config = ConfigDict(from_attributes=True)

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


class Adjustment(BaseModel):
    """The body of an adjustment."""

    delta: int


app = FastAPI(openapi_url=None)


@app.get("/products/{product_id}")
def get_product(product_id: str) -> Response:
    cached = _redis.get(_key(product_id))
    if cached is not None:
        return Response(cached, media_type="application/json")
    with _sessions() as session:
        row = session.get(ProductRow, product_id)
        if row is None:
            raise HTTPException(404)
        return _cache_and_answer(row)


@app.put("/products/{product_id}/stock")
def set_stock(product_id: str, body: Count) -> Response:
    with _sessions.begin() as session:
        row = _locked(session, product_id)
        _move(session, row, body.stock - row.stock, "count")
    return _cache_and_answer(row)


@app.post("/products/{product_id}/stock/adjustments")
def adjust_stock(product_id: str, body: Adjustment) -> Response:
    with _sessions.begin() as session:
        row = _locked(session, product_id)
        if row.stock + body.delta < 0:
            raise HTTPException(409)
        _move(session, row, body.delta, "sale")
    return _cache_and_answer(row)


@app.get("/readyz")
def ready() -> Response:
    with _engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    return Response()


def _locked(session: Session, product_id: str) -> ProductRow:
    row = session.get(ProductRow, product_id, with_for_update=True)
    if row is None:
        raise HTTPException(404)
    return row


def _move(session: Session, row: ProductRow, delta: int, reason: str) -> None:
    row.stock += delta
    row.version += 1
    row.updated_at = datetime.now(tz=UTC)
    session.add(Movement(product_id=row.id, delta=delta, stock_after=row.stock, reason=reason))


def _cache_and_answer(row: ProductRow) -> Response:
    payload = Product.model_validate(row).model_dump_json()
    _redis.setex(_key(row.id), TTL_S, payload)
    return Response(payload, media_type="application/json")


def _key(product_id: str) -> str:
    return f"product:{product_id}"

"""Instances that accept writes, and what tests do with them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import psycopg

from app.api.context import Larder

APPLIER = "SELECT pg_advisory_lock(hashtextextended('larder accepted writes', 0))"
LATER = {"Prefer": "respond-async"}
QUIET = {"AUDIT_INTERVAL_MS": "20000", "FENCE_TTL_MS": "40000", "FENCE_TTL_MAX_MS": "40000", "REQUEST_TIMEOUT_MS": "60000"}
"""The audit repairs nothing within a test."""

Mutate = Callable[[Larder], None]
Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection of an operator."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def nothing_applied(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Keep the applier from its work until the end of the block."""
    async with by_hand(url) as connection:
        await connection.execute(APPLIER)
        yield connection


def larder_behind(client: httpx.AsyncClient) -> Larder:
    """The running service that a client reaches."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    larder: Larder = transport.app.state.larder  # type: ignore[attr-defined]
    return larder


def unchanged(_larder: Larder) -> None:
    """Leave the service as it is shipped."""


async def create(client: httpx.AsyncClient, *ids: str, stock: int = 10) -> None:
    items = [{"id": product_id, "name": "Mug", "price_cents": 100, "stock": stock} for product_id in ids]
    assert (await client.post("/products/batch", json={"items": items})).status_code == 200


async def adjust(client: httpx.AsyncClient, key: str, delta: int, *ids: str, later: bool = True) -> httpx.Response:
    lines = [{"product_id": product_id, "delta": delta} for product_id in ids]
    headers = {"Idempotency-Key": key} | (LATER if later else {})
    return await client.post("/stock/adjustments", json={"lines": lines, "reason": "other", "reference": key}, headers=headers)


async def ended(client: httpx.AsyncClient, key: str) -> dict[str, Any]:
    """The status of a write, once it is no longer queued."""
    async with asyncio.timeout(20):
        while (answer := await client.get(f"/writes/{key}")).json()["state"] == "queued":
            assert answer.headers["Retry-After"] == "1"
            await asyncio.sleep(0.02)
    status: dict[str, Any] = answer.json()
    return status


async def order(client: httpx.AsyncClient, product_id: str) -> list[str]:
    """The references of a product's movements, oldest first, without its creation; their sum is its stock."""
    movements = (await client.get(f"/products/{product_id}/stock/movements?limit=250")).json()["items"]
    product = (await client.get(f"/products/{product_id}")).json()
    assert sum(movement["delta"] for movement in movements) == product["stock"]
    return [movement["reference"] for movement in reversed(movements) if movement["reason"] != "opening"]

"""The example of a service with a table of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from app.cache import open_caches
from tests.component import suppliers
from tests.component.conftest import LIMITS


@pytest.fixture
async def client(database_url: str, redis_url: str, namespace: str) -> AsyncIterator[httpx.AsyncClient]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for statement in suppliers.MIGRATION:
            await connection.execute(statement.encode())
        await connection.execute("INSERT INTO suppliers VALUES ('acme', 'Acme', 30)")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        entity = replace(suppliers.SUPPLIERS, namespace=f"{namespace}-suppliers")
        async with open_caches(database_url, redis_url, [entity], limits=LIMITS) as app.state.caches:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(suppliers.router)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def until_hit(client: httpx.AsyncClient) -> httpx.Response:
    """Read until the cache is proven current: nothing is known about fences of a new table, so the longest is waited for."""
    while (found := await client.get("/suppliers/acme")).headers["Cache-Status"] != "larder; hit":
        assert found.json()["terms"] == 30
    return found


async def test_example(client: httpx.AsyncClient) -> None:
    """A hit, a write and a hit of what it wrote, 404, invalidated and loaded again."""
    first = await until_hit(client)
    assert (first.headers["ETag"], first.json()) == ('"1"', {"id": "acme", "name": "Acme", "terms": 30, "version": 1})
    written = await client.put("/suppliers/acme/terms", json={"terms": 60})
    assert (written.status_code, written.headers["ETag"], written.json()["terms"]) == (200, '"2"', 60)
    again = await client.get("/suppliers/acme")
    assert (again.headers["Cache-Status"], again.content) == ("larder; hit", written.content)
    assert (await client.get("/suppliers/nobody")).status_code == 404
    assert (await client.put("/suppliers/nobody/terms", json={"terms": 1})).status_code == 404
    assert (await client.delete("/cache/suppliers/acme")).status_code == 204
    after = await client.get("/suppliers/acme")
    assert after.headers["Cache-Status"] in ("larder; stored", "larder; miss")  # an audit may come between load and fill
    assert (after.headers["ETag"], after.content) == ('"2"', written.content)

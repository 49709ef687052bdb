"""The whole application on real servers, in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

PATIENT = {"REDIS_TIMEOUT_MS": "10000", "FENCE_TTL_MS": "20000", "FENCE_TTL_MAX_MS": "20000", "REQUEST_TIMEOUT_MS": "60000"}
"""Settings with which a slow machine makes no misses."""


@asynccontextmanager
async def service(database_url: str, redis_url: str, namespace: str, **more: str) -> AsyncIterator[httpx.AsyncClient]:
    """One instance of the service and a client of it."""
    async with (
        application(database_url, redis_url, namespace, **more) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://larder") as client,
    ):
        yield client


@asynccontextmanager
async def application(database_url: str, redis_url: str, namespace: str, **more: str) -> AsyncIterator[FastAPI]:
    """One instance of the service, started."""
    given = {
        "ACCESS": "open",
        "ALLOWED_HOSTS": "larder",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "CACHE_NAMESPACE": namespace,
    } | more
    app = create_app(Settings.from_env({f"LARDER_{name}": value for name, value in given.items()}))
    async with app.router.lifespan_context(app):
        yield app


async def proven(client: httpx.AsyncClient) -> None:
    """Return once the cache is trusted: an absent product is a hit."""
    async with asyncio.timeout(10):
        while (await client.get("/products/none")).headers["Cache-Status"] != "larder; hit":
            await asyncio.sleep(0.02)

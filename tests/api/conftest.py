"""The HTTP layer over a service in memory: everything but the servers is real."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import httpx
import pytest
from fastapi import FastAPI

from app.api.application import build
from app.api.metrics import RequestStats
from app.api.state import Larder
from app.cache.stats import Stats
from app.products.service import Products
from app.settings import Settings
from tests.api.catalogue import Answering, Connected, InMemoryCatalogue

LIMIT = 8_192


@dataclass(frozen=True, slots=True)
class Service:
    """The application and what stands behind it."""

    app: FastAPI
    products: InMemoryCatalogue
    database: Answering
    store: Connected
    stats: Stats
    requests: RequestStats


@pytest.fixture
def service() -> Service:
    requests = RequestStats()
    app = build("1.2.3", requests)
    service = Service(app, InMemoryCatalogue(), Answering(), Connected(), Stats(), requests)
    settings = Settings.from_env({"LARDER_BODY_LIMIT_BYTES": str(LIMIT)})
    products = cast("Products", service.products)
    app.state.larder = Larder(settings, products, service.database, service.store, service.stats, requests)
    return service


@pytest.fixture
def catalogue(service: Service) -> InMemoryCatalogue:
    return service.products


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose errors are answers: what the application raises must not reach it."""
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://larder") as client:
        yield client


@pytest.fixture
async def mug(client: httpx.AsyncClient) -> dict[str, object]:
    """A product that is there, at version 1."""
    body = {"id": "mug-blue", "name": "Blue mug", "price_cents": 1299, "stock": 40, "reorder_point": 10}
    answer = await client.post("/products", json=body)
    product: dict[str, object] = answer.json()
    return product

"""The running service as the endpoints see it, and how they reach it from a request."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import Request

from app.api.metrics import RequestStats, StoreHealth, WorkerMetrics
from app.api.worker_metrics import SharedMetrics
from app.cache.ports import Reading
from app.cache.stats import Stats
from app.products.service import Products
from app.settings import Settings


class Pingable(Protocol):
    """A server that can be asked whether it can be used."""

    async def ping(self) -> None:
        """Return once the server has said that it can; raise if it has not within a bounded time."""


STATE = "larder"
"""The name of the running service in the lifespan's state, where the server's protocol finds it."""
READING = "reading"
"""The name, in a request's state, of what the hot read found for it, where the endpoint finds it."""


@dataclass(frozen=True, slots=True)
class Larder:
    """The running service. The composition root puts it into ``app.state.larder``."""

    settings: Settings
    products: Products
    source: Pingable
    store: StoreHealth
    stats: Stats
    requests: RequestStats
    shared_metrics: SharedMetrics | None = None
    """The metrics of all workers, or ``None`` when this process is alone on its address."""
    large_bodies: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a large body is parsed or a batch is checked, so that other requests are served between two of them."""

    def tally(self) -> WorkerMetrics:
        """Return what this process counts; the counters go on counting."""
        return WorkerMetrics(self.requests, self.stats, self.store.failures, self.store.up, workers=1)


def larder_of(request: Request) -> Larder:
    """Return the running service."""
    larder: Larder = request.app.state.larder
    return larder


def products_of(request: Request) -> Products:
    """Return the products of the running service."""
    return larder_of(request).products


def reading_of(request: Request) -> Reading | None:
    """Give what the hot read found for this request, if it tried to answer it."""
    reading: Reading | None = request.scope.get("state", {}).get(READING)
    return reading

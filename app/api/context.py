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
        """Return once the server has told that it can; raise within a bounded time when it has not."""


STATE = "larder"
"""The name of the running service in the lifespan's state, where the server's protocol finds it."""
READING = "reading"
"""The name, in a request's state, of what the hot read found for it, where the endpoint finds it."""


@dataclass(frozen=True, slots=True)
class Larder:
    """The running service as its endpoints see it; the composition root puts it into ``app.state.larder``."""

    settings: Settings
    products: Products
    source: Pingable
    store: StoreHealth
    stats: Stats
    requests: RequestStats
    shared_metrics: SharedMetrics | None = None
    """The metrics of all workers, or ``None`` when this process is alone on its address."""
    large_bodies: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a large body is parsed or a batch is checked, so that several do not share one turn of the loop."""

    def tally(self) -> WorkerMetrics:
        """Give what this process counts; the counters in it are the living ones."""
        return WorkerMetrics(self.requests, self.stats, self.store.failures, self.store.up, workers=1)


def larder_of(request: Request) -> Larder:
    """Give the running service."""
    larder: Larder = request.app.state.larder
    return larder


def products_of(request: Request) -> Products:
    """Give the running service's use cases."""
    return larder_of(request).products


def reading_of(request: Request) -> Reading | None:
    """Give what the hot read found for this request, if it tried to answer it."""
    reading: Reading | None = request.scope.get("state", {}).get(READING)
    return reading

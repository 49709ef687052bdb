"""The running service, and how the endpoints reach it from a request."""

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
    """A server whose readiness can be checked."""

    async def ping(self) -> None:
        """Return once the server has answered that it can be used; raise an error if it does not answer in time."""


STATE = "larder"
"""Key in the lifespan's state under which the server's protocol finds the running service."""
READING = "reading"
"""Key in the request state under which the hot read leaves its ``Reading`` for the endpoint."""


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
        """Return the live counters of this process."""
        return WorkerMetrics(self.requests, self.stats, self.store.failures, self.store.up, workers=1)


def larder_of(request: Request) -> Larder:
    """Return the running service."""
    larder: Larder = request.app.state.larder
    return larder


def products_of(request: Request) -> Products:
    """Return the products of the running service."""
    return larder_of(request).products


def reading_of(request: Request) -> Reading | None:
    """Return what the hot read found, if there was one."""
    reading: Reading | None = request.scope.get("state", {}).get(READING)
    return reading

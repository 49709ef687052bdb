"""What the endpoints are given: the service behind a protocol, and typed ways to reach it from a request."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import Request

from app.api.metrics import RequestStats, StoreHealth, Tally
from app.api.tallies import Tallies
from app.cache.ports import Reading
from app.cache.stats import Stats
from app.cache.write_through import Peeked, Read
from app.products.product import ALWAYS, Draft, LedgerPosition, Line, Patch, Position, Precondition, Reason
from app.products.service import ANYHOW, Asking, LedgerPage, Page, Written
from app.settings import Settings


class Catalogue(Protocol):
    """The use cases as the endpoints call them; ``app.products.service.Products`` is the real one."""

    async def get(self, product_id: str, *, refresh: bool = False, stale_s: int = 0, reading: Reading | None = None) -> Read:
        """Read one product through the cache, from ``reading`` on if ``peek`` gave one for this request."""

    def peek(self, product_id: str, then: Callable[[Peeked], None]) -> None:
        """Give ``then`` the product if the cache holds and proves it; else what ``get`` can go on from."""

    async def get_many(self, ids: Sequence[str], *, refresh: bool = False, stale_s: int = 0) -> list[Read]:
        """Read products through the cache, in the order of ``ids``, which has no repeats."""

    async def list_page(
        self, *, limit: int, after: Position | None = None, prefix: str = "", below_reorder_point: bool = False
    ) -> Page:
        """Read a page of the list from the source."""

    async def create(self, draft: Draft, asking: Asking = ANYHOW) -> Written:
        """Add a product."""

    async def put(self, draft: Draft, condition: Precondition = ALWAYS, asking: Asking = ANYHOW) -> Written:
        """Create or replace a product."""

    async def patch(self, product_id: str, patch: Patch, condition: Precondition = ALWAYS, asking: Asking = ANYHOW) -> Written:
        """Change some fields of a product."""

    async def delete(self, product_id: str, condition: Precondition = ALWAYS, asking: Asking = ANYHOW) -> Written:
        """Delete a product."""

    async def count(
        self,
        product_id: str,
        stock: int,
        condition: Precondition = ALWAYS,
        reference: str | None = None,
        asking: Asking = ANYHOW,
    ) -> Written:
        """Set a product's stock to what was counted."""

    async def adjust(
        self,
        lines: Sequence[Line],
        reason: Reason,
        reference: str | None = None,
        condition: Precondition = ALWAYS,
        asking: Asking = ANYHOW,
    ) -> Sequence[Written]:
        """Add to and take from stocks, all lines or none; an answer for each product, in the order first named."""

    async def movements(self, product_id: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        """Read a page of one product's ledger, newest first."""

    async def movements_by_reference(self, reference: str, *, limit: int, after: LedgerPosition | None = None) -> LedgerPage:
        """Read a page of what happened under one reference, newest first."""

    async def upsert(self, drafts: Sequence[Draft], asking: Asking = ANYHOW) -> Sequence[Written]:
        """Create or replace products, all in one transaction; the ids have no repeats."""

    async def drop(self, product_id: str) -> None:
        """Empty a product's slot in the cache."""


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
    products: Catalogue
    source: Pingable
    store: StoreHealth
    stats: Stats
    requests: RequestStats
    tallies: Tallies | None = None
    """Those of all workers; ``None`` when this process is alone on its address."""
    large_bodies: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a large body is parsed or a batch is checked, so that several do not share one turn of the loop."""

    def tally(self) -> Tally:
        """Give what this process counts; the counters in it are the living ones."""
        return Tally(self.requests, self.stats, self.store.failures, self.store.up, workers=1)


def larder_of(request: Request) -> Larder:
    """Give the running service."""
    larder: Larder = request.app.state.larder
    return larder


def products_of(request: Request) -> Catalogue:
    """Give the running service's use cases."""
    return larder_of(request).products


def reading_of(request: Request) -> Reading | None:
    """Give what the hot read found for this request, if it tried to answer it."""
    reading: Reading | None = request.scope.get("state", {}).get(READING)
    return reading

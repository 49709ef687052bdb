"""Low stock and the last movements, for the dashboard. PostgreSQL is asked for them only while somebody looks."""

import asyncio
import json
import time
from dataclasses import asdict
from typing import Any

from app.cache.errors import CacheError
from app.products.payload import movement_fields
from app.products.reservation import HeldUnits
from app.products.service import Products

RENEWED_EVERY_S = 2.0
SHOWN = 10
"""Most products and most movements."""
_WAIT_S = 0.3
"""How long a request waits for a renewal. After that it shows what was read before."""


class StockGlance:
    """What was read last, and the renewal under way, which all requests share."""

    def __init__(self, products: Products) -> None:
        self._products = products
        self._shown: dict[str, Any] = {"at": None, "low": [], "movements": [], "held": asdict(HeldUnits())}
        self._renewing: asyncio.Task[None] | None = None
        self._due = float("-inf")

    async def latest(self) -> dict[str, Any]:
        """Return the stock as it was read last. Nothing that PostgreSQL does delays this for long, or makes it fail."""
        if self._renewing is None and time.monotonic() >= self._due:
            self._renewing = asyncio.create_task(self._renew())
        if self._renewing is not None:
            await asyncio.wait({self._renewing}, timeout=_WAIT_S)
        return self._shown

    async def _renew(self) -> None:
        try:
            low = await self._products.list_page(limit=SHOWN, below_reorder_point=True)
            movements = await self._products.latest_movements(limit=SHOWN)
            held = await self._products.held_units()
        except CacheError:
            return  # the verdict says that PostgreSQL is away; the old stock is shown with its time
        finally:
            self._due = time.monotonic() + RENEWED_EVERY_S
            self._renewing = None
        self._shown = {
            "at": time.time(),
            "low": [json.loads(item) for item in low.items],
            "movements": [movement_fields(movement) for movement in movements],
            "held": asdict(held),
        }

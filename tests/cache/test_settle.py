"""A settling write does not depend on a database that is overloaded or hangs."""

import asyncio
import time

from app.cache.errors import Overloaded
from app.cache.history import History
from app.cache.ports import AuditProgress
from app.cache.settle import Settler
from app.cache.stats import Stats
from tests.limits import cache_config

CONFIG = cache_config(fence_ttl_max_ms=50, settle_margin_ms=1, settle_poll_ms=5, settle_timeout_ms=30_000)


class OverloadedOnce:
    """A source that is overloaded at the first look and hangs at every later one."""

    def __init__(self) -> None:
        self.looks = 0

    async def tell_epoch(self) -> str:
        raise AssertionError

    async def standing(self) -> AuditProgress:
        self.looks += 1
        if self.looks == 1:
            raise Overloaded("all connections are in use")
        await asyncio.Event().wait()
        raise AssertionError

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        raise AssertionError(fence_ttl_max_ms)


async def test_overloaded_and_hanging_database() -> None:
    """R4: the poller survives an overload, and the largest fence TTL on the own clock ends the wait without the database."""
    source = OverloadedOnce()
    settler = Settler(source, CONFIG, Stats(), History(), time.monotonic)
    async with asyncio.timeout(10):
        await settler.settle(time.monotonic())
    assert source.looks == 2
    await settler.aclose()

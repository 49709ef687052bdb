"""Somebody holds one table for seconds, with the limits of a service as it is shipped."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from app.cache import Limits, Status, open_caches
from tests.component.conftest import Tables

HELD_S = 5.0


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.guarantee("G3", "G4")
async def test_table_held_for_five_seconds(tables: Tables, redis_url: str) -> None:
    """While suppliers are held with ACCESS EXCLUSIVE, at least 99 of 100 reads of products are hits."""
    suppliers = replace(tables.suppliers, ttl_s=60)
    async with open_caches(tables.database_url, redis_url, [tables.products, suppliers], limits=Limits()) as caches:
        async with asyncio.timeout(30):
            while {(await caches[tables.products].read("mug")).status, (await caches[suppliers].read("acme")).status} != {
                Status.HIT
            }:
                await asyncio.sleep(0.05)
        statuses: Counter[Status] = Counter()
        async with tables.hand.transaction():
            await tables.hand.execute("LOCK TABLE suppliers IN ACCESS EXCLUSIVE MODE")
            ends = asyncio.get_running_loop().time() + HELD_S
            while asyncio.get_running_loop().time() < ends:
                statuses[(await caches[tables.products].read("mug")).status] += 1
                await asyncio.sleep(0.002)
            assert caches.stats[suppliers.namespace].audit_failures > 0
        assert statuses.total() > 500
        assert statuses[Status.HIT] >= 0.99 * statuses.total(), statuses
        async with asyncio.timeout(30):
            while (await caches[suppliers].read("acme")).status is not Status.HIT:
                await asyncio.sleep(0.05)

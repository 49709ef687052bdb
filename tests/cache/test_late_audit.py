"""An audit that takes longer than its fence may live, on real servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from app.cache.audit import Audit
from app.cache.history import History
from app.cache.ports import AuditStore, Begun, Watermark
from app.cache.redis_store import RedisAuditStores
from app.cache.stats import Stats
from app.cache.table_audit import TableAuditSources
from app.cache.write_through import Status
from app.products.commands import Create, set_stock
from app.products.source import PRODUCTS
from tests.cache.conftest import Slots
from tests.cache.rig import LONG_FENCE, Process, draft, open_process
from tests.limits import open_database, redis_options

KEY = "mug"


@pytest.fixture
async def untrusted(redis_url: str, database_url: str, namespace: str) -> AsyncIterator[Process]:
    """A process whose cache nobody has audited yet."""
    async with open_process(redis_url, database_url, namespace) as process:
        yield process


class Belated:
    """A cycle's store that claims to have begun longer ago than any fence may live."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self.begin, self.verify, self.purge, self.distrust = store.begin, store.verify, store.purge, store.distrust

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        return await self._store.trust(replace(begun, time_ms=begun.time_ms - fence_ttl_ms), proven, fence_ttl_ms)


@pytest.fixture
async def belated(redis_url: str, database_url: str, namespace: str) -> AsyncIterator[Audit]:
    """Another process's audits, all of them late."""
    stores = RedisAuditStores(redis_options(redis_url), namespace)
    database = open_database(database_url)

    @asynccontextmanager
    async def open_store() -> AsyncIterator[AuditStore]:
        async with stores.open() as store:
            yield Belated(store)

    await stores.start()
    yield Audit(open_store, TableAuditSources(database, PRODUCTS, namespace).open, LONG_FENCE, Stats(), history=History())
    await stores.close()
    await database.close()


@pytest.mark.guarantee("R5", "R6")
async def test_purge_that_takes_too_long(untrusted: Process, belated: Audit, slots: Slots) -> None:
    """A late cycle sets no fence and does not complete, but the next cycle need not purge again, and gives trust."""
    late = await belated.cycle()
    assert late is not None
    assert (late.trusted, late.purged) == (False, 0)
    [row] = (await untrusted.source.standing()).rows.values()
    assert (row.announced, row.completed) == (1, 0)
    assert await slots.peek(slots.names.fence) is None
    await untrusted.write(Create(draft(KEY)))
    assert (await untrusted.cache.read(KEY)).status is not Status.HIT
    assert (await untrusted.trust()).purged is None
    await untrusted.cache.read(KEY)
    assert (await untrusted.cache.read(KEY)).status is Status.HIT


@pytest.mark.guarantee("R5")
async def test_what_changed_after_a_late_snapshot(untrusted: Process, belated: Audit, slots: Slots) -> None:
    """A commit after a late cycle's snapshot is found by the next cycle, because the watermark is that of the snapshot."""
    await untrusted.write(Create(draft(KEY)))
    await belated.cycle()
    await untrusted.cache.read(KEY)
    held = await slots.get(KEY)
    assert held is not None
    await untrusted.write(set_stock(KEY, 5))
    await slots.set(KEY, held)
    cycle = await untrusted.trust()
    assert (cycle.purged, cycle.repairs.older) == (None, 1)
    assert await untrusted.version(KEY) == 2

"""A write that settles waits for the partitions in which it is not proven, and for no sibling (R4)."""

import asyncio
import time
from collections.abc import Mapping

import pytest

from app.cache.history import History
from app.cache.ports import AuditProgress, AuditRow
from app.cache.settle import Settler
from app.cache.stats import Stats
from tests.limits import cache_config

CONFIG = cache_config(fence_ttl_max_ms=60_000, settle_margin_ms=1, settle_poll_ms=1, settle_timeout_ms=30_000)
EPOCH = "00000000000000aa"
OWN = [f"n~2/4#{partition}" for partition in range(4)]
LIVE = AuditRow(announced=3, completed=3, remaining_s=60.0)


class Rows:
    """Audit rows that the test changes by hand."""

    def __init__(self, rows: Mapping[str, AuditRow]) -> None:
        self.rows = dict(rows)
        self.adoptions = 0
        self.looks = 0
        self._looked = asyncio.Event()

    async def tell_epoch(self) -> str:
        return EPOCH

    async def standing(self) -> AuditProgress:
        self.looks += 1
        self._looked.set()
        return AuditProgress(EPOCH, dict(self.rows))

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        self.adoptions += 1
        for name in OWN:
            self.rows.setdefault(name, AuditRow(announced=1, completed=0, remaining_s=fence_ttl_max_ms / 1000))
        return await self.standing()

    async def seen(self) -> None:
        """Wait until the rows have been read twice from now on, so that every waiter has seen them."""
        async with asyncio.timeout(10):
            for _ in range(2):
                self._looked.clear()
                await self._looked.wait()

    def complete(self, name: str) -> None:
        """Finish a cycle that was announced after every look so far."""
        row = self.rows[name]
        self.rows[name] = AuditRow(row.announced + 1, row.announced + 1, row.remaining_s)


async def settling(source: Rows, rows: frozenset[str] | None) -> "asyncio.Task[None]":
    """Begin to settle; return when the waiter has seen the rows."""
    settler = Settler(source, CONFIG, Stats(), History(), time.monotonic, own=OWN)
    task = asyncio.create_task(settler.settle(time.monotonic(), rows))
    task.add_done_callback(lambda _: asyncio.ensure_future(settler.aclose()))
    await source.seen()
    return task


@pytest.mark.guarantee("R4")
async def test_cycle_of_a_sibling() -> None:
    """A sibling's cycle proves nothing about this partition, and a write need not wait for it either."""
    source = Rows(dict.fromkeys(OWN, LIVE))
    task = await settling(source, frozenset({OWN[1]}))
    source.complete(OWN[0])
    await source.seen()
    assert not task.done()
    source.complete(OWN[1])
    async with asyncio.timeout(10):
        await task


@pytest.mark.guarantee("R4")
async def test_several_partitions_and_another_namespace() -> None:
    """Each partition has to have a cycle, and so has every other namespace of the table, whose readers may have the trust."""
    source = Rows({**dict.fromkeys(OWN, LIVE), "other~2": LIVE, "n~2/8#1": LIVE})
    task = await settling(source, frozenset({OWN[1], OWN[2]}))
    for name in (OWN[1], OWN[2], "other~2"):
        source.complete(name)
        await source.seen()
        assert not task.done()
    source.complete("n~2/8#1")
    async with asyncio.timeout(10):
        await task


@pytest.mark.guarantee("R4")
async def test_unknown_partitions() -> None:
    """If it is not known where a write is proven, every partition has to have a cycle."""
    source = Rows(dict.fromkeys(OWN, LIVE))
    task = await settling(source, None)
    for name in OWN[:-1]:
        source.complete(name)
        await source.seen()
        assert not task.done()
    source.complete(OWN[-1])
    async with asyncio.timeout(10):
        await task


@pytest.mark.guarantee("R4")
async def test_partition_of_a_node_that_is_gone() -> None:
    """Once its last fence has expired, a write costs one statement more, however long the node is away."""
    source = Rows({**dict.fromkeys(OWN, LIVE), OWN[1]: AuditRow(announced=3, completed=3, remaining_s=-5.0)})
    for writes in (1, 2):
        settler = Settler(source, CONFIG, Stats(), History(), time.monotonic, own=OWN)
        async with asyncio.timeout(10):
            await settler.settle(time.monotonic(), frozenset({OWN[1]}))
        await settler.aclose()
        assert source.looks == writes
    assert source.adoptions == 0


@pytest.mark.guarantee("R4")
async def test_partition_that_has_no_audit_in_this_epoch() -> None:
    """A sibling's first cycle waited for its own fences of an earlier epoch: this partition's may be live, and are adopted."""
    source = Rows({OWN[0]: LIVE})
    task = await settling(source, frozenset({OWN[1]}))
    assert source.adoptions == 1
    assert not task.done()
    source.complete(OWN[1])
    async with asyncio.timeout(10):
        await task


@pytest.mark.guarantee("R4")
async def test_partitions_that_come_after_another_namespace() -> None:
    """The other namespace's first cycle waited for every fence of an earlier epoch, so nothing is adopted."""
    source = Rows({"other~2": AuditRow(announced=3, completed=3, remaining_s=-5.0)})
    settler = Settler(source, CONFIG, Stats(), History(), time.monotonic, own=OWN)
    async with asyncio.timeout(10):
        await settler.settle(time.monotonic(), frozenset({OWN[1]}))
    assert source.adoptions == 0
    await settler.aclose()

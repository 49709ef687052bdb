"""Reads on real servers that no schedule plays: leases, joined loads, and a store that fails."""

import asyncio

import pytest

from app.cache.errors import StoreUnavailable
from app.cache.write_through import Status
from app.products.commands import set_stock
from tests.cache.conftest import Slots
from tests.cache.rig import LOST, Process

KEY = "mug"


@pytest.mark.guarantee("R2")
@pytest.mark.usefixtures("mug")
async def test_reader_finds_a_foreign_lease(other: Process, slots: Slots) -> None:
    """No lease, no fill: who finds another's lease loads, answers, and leaves the slot alone."""
    lease = await slots.lease(KEY)
    read = await other.cache.read(KEY)
    assert (read.state.version, read.status) == (1, Status.MISS)
    assert await slots.get(KEY) == lease
    assert "publish" not in other.store.calls.count()


@pytest.mark.guarantee("G5")
async def test_two_ask_for_one_lease_in_one_batch(mug: Process, slots: Slots) -> None:
    """When two in one process ask for a key's lease in one batch, only one gets the token."""
    await slots.evict(KEY)
    mug.store.publications.clear()
    await mug.cache.drop(KEY)
    busy = mug.store.calls.hold("lease")
    occupied = asyncio.create_task(mug.cache.read("another"))
    await busy.arrival()
    writers = [asyncio.create_task(mug.write(set_stock(KEY, stock))) for stock in (1, 2)]
    await _let_run()
    busy.open()
    await asyncio.gather(occupied, *writers)
    assert mug.store.calls.of("lease")[-1] == (KEY,)
    tokens = [publication.token for publication in mug.store.publications if publication.state.key == KEY]
    assert len(tokens) == 2
    assert tokens.count("") == 1


@pytest.mark.guarantee("R2")
async def test_a_token_is_sent_once(mug: Process, slots: Slots) -> None:
    """Every lease that is tried carries a token of its own, also for the same key and after a loss."""
    seen = set()
    for attempt in range(5):
        await slots.evict(KEY)
        if attempt == 2:
            mug.store.calls.lose_reply("lease")
        gate = mug.source.calls.hold("load")
        reading = asyncio.create_task(mug.cache.read(KEY))
        await gate.arrival()
        seen.add(await slots.get(KEY))
        gate.open()
        await reading
    assert len(seen) == 5
    assert all(lease is not None and lease.startswith(b"L") for lease in seen)


@pytest.mark.guarantee("G5")
async def test_many_misses_of_one_key(mug: Process, slots: Slots) -> None:
    """G5: one load runs, one waits; a hundred requests that came meanwhile share the one that waits."""
    await slots.lease(KEY)  # so that every read is a miss
    gate = mug.source.calls.hold("load")
    first = asyncio.create_task(mug.cache.read(KEY))
    await gate.arrival()
    rest = [asyncio.create_task(mug.cache.read(KEY)) for _ in range(100)]
    await _reads_answered(mug, 101)
    assert mug.source.calls.of("load") == [(KEY,)]
    gate.open()
    reads = await asyncio.gather(first, *rest)
    assert {read.state.version for read in reads} == {1}
    assert mug.source.calls.of("load") == [(KEY,), (KEY,)]
    assert mug.source.most_running == 1


@pytest.mark.guarantee("G5")
async def test_fills_overlap_the_next_load(mug: Process) -> None:
    """The slots of one batch are filled while the next batch is loaded."""
    fill = mug.store.calls.hold("publish")
    first = asyncio.create_task(mug.cache.read("one"))
    await fill.arrival()
    load = mug.source.calls.hold("load")
    second = asyncio.create_task(mug.cache.read("two"))
    await load.arrival()
    load.open()
    fill.open()
    assert [read.status for read in await asyncio.gather(first, second)] == [Status.STORED, Status.STORED]


async def test_cancelled_reader_leaves_the_load_to_the_others(mug: Process, slots: Slots) -> None:
    """A request that goes away takes nothing from those who share its load."""
    await slots.evict(KEY)
    gate = mug.source.calls.hold("load")
    leaver = asyncio.create_task(mug.cache.read(KEY))
    await gate.arrival()
    stayer = asyncio.create_task(mug.cache.read(KEY))
    await _let_run()
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    gate.open()
    assert (await stayer).state.version == 1


async def test_fill_fails(mug: Process, slots: Slots) -> None:
    """A store that fails while a reader fills costs the reader nothing but the entry."""
    for after in (False, True):
        await slots.evict(KEY)
        mug.store.calls.fail("publish", LOST, after=after)
        assert (await mug.cache.read(KEY)).state.version == 1
    assert mug.stats.publish_failures == 2


async def test_store_read_fails(mug: Process) -> None:
    """A store that cannot be read is said, not hidden: the read goes to the source as a bypass, and no lease is tried."""
    mug.store.calls.lose("read")
    leases = mug.store.calls.count()["lease"]
    read = await mug.cache.read(KEY)
    assert (read.state.version, read.status, read.detail) == (1, Status.BYPASS, "redis-unavailable")
    assert mug.store.calls.count()["lease"] == leases


@pytest.mark.guarantee("G3")
async def test_drop_fails(mug: Process) -> None:
    """Dropping an entry is the one request whose whole purpose is the store: its failure is the caller's to know."""
    mug.store.calls.lose("drop")
    with pytest.raises(StoreUnavailable):
        await mug.cache.drop(KEY)


async def _let_run() -> None:
    """Let every task that can go on do so; none of them waits for a server here that would make a difference."""
    for _ in range(20):
        await asyncio.sleep(0)


async def _reads_answered(process: Process, keys: int) -> None:
    """Return when so many keys were read from the store and their readers have come to their loads."""
    while process.stats.store_read.total_s == 0 or sum(len(batch) for batch in process.store.calls.of("read")) < keys:
        await asyncio.sleep(0)
    gate = process.store.calls.hold_reply("read")
    probe = asyncio.create_task(process.cache.read("probe-that-comes-last"))
    await gate.arrival()
    await _let_run()
    probe.cancel()
    gate.open()
    await asyncio.gather(probe, return_exceptions=True)

"""Reads that meet writes: R1, R2, R7 and G5, forced by gates on real servers."""

import asyncio

import pytest

from app.cache.errors import StoreUnavailable
from app.cache.history import hash_of
from app.cache.ports import Absent, Value
from app.cache.write_through import Status
from app.products.commands import Put, set_stock
from tests.cache.conftest import Slots
from tests.cache.rig import LOST, Process, draft

KEY = "mug"


@pytest.fixture
async def mug(process: Process) -> Process:
    """The process, with a product at version 1 whose slot holds it."""
    assert (await process.write(Put(draft(KEY)))).proven
    return process


async def test_reader_leases_and_loads_then_writer_publishes_then_reader_fills(
    mug: Process, other: Process, slots: Slots
) -> None:
    """A fill whose load began before a commit stores nothing: the publish has taken its lease away."""
    await slots.evict(KEY)
    loaded = other.source.calls.hold("load", after=True)
    reading = asyncio.create_task(other.cache.read(KEY))
    await loaded.arrival()
    assert await slots.leased(KEY)

    assert (await mug.write(set_stock(KEY, 7))).proven
    assert await slots.get(KEY) is None
    loaded.open()

    old = await reading
    assert (old.state.version, old.status) == (1, Status.MISS)
    assert await slots.get(KEY) is None
    assert await mug.version(KEY) == 2


async def test_late_fill_meets_the_lease_of_the_next_reader(mug: Process, other: Process, slots: Slots) -> None:
    """A fill with a token that no longer stands in the slot deletes the lease that does, and stores nothing."""
    await slots.evict(KEY)
    first_loaded = other.source.calls.hold("load", after=True)
    first = asyncio.create_task(other.cache.read(KEY))
    await first_loaded.arrival()
    await mug.write(set_stock(KEY, 7))
    second_loaded = mug.source.calls.hold("load", after=True)
    second = asyncio.create_task(mug.cache.read(KEY))
    await second_loaded.arrival()
    assert await slots.leased(KEY)

    first_loaded.open()
    assert (await first).status is Status.MISS
    assert await slots.get(KEY) is None
    second_loaded.open()
    assert (await second).state.version == 2
    assert await slots.get(KEY) is None
    assert await other.version(KEY) == 2


@pytest.mark.usefixtures("mug")
async def test_reader_finds_a_foreign_lease(other: Process, slots: Slots) -> None:
    """No lease, no fill: who finds another's lease loads, answers, and leaves the slot alone."""
    await slots.set(KEY, b"Lsomebody-else")
    read = await other.cache.read(KEY)
    assert (read.state.version, read.status) == (1, Status.MISS)
    assert await slots.get(KEY) == b"Lsomebody-else"
    assert "publish" not in other.store.calls.count()


@pytest.mark.usefixtures("mug")
async def test_lease_whose_ok_was_lost_is_never_used(other: Process, slots: Slots) -> None:
    """Only a definite OK makes a token; a lease that may or may not stand fills nothing."""
    await slots.evict(KEY)
    other.store.calls.fail("lease", LOST, after=True)
    read = await other.cache.read(KEY)
    assert (read.state.version, read.status) == (1, Status.MISS)
    assert await slots.leased(KEY)
    assert other.store.publications == []


async def test_two_ask_for_one_lease_in_one_batch(mug: Process, slots: Slots) -> None:
    """Of two of one process who ask for a key's lease in one batch, one gets the token: a token has one holder."""
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


async def test_a_token_is_sent_once(mug: Process, slots: Slots) -> None:
    """Every lease that is tried carries a token of its own, also for the same key and after a loss."""
    seen = set()
    for attempt in range(5):
        await slots.evict(KEY)
        if attempt == 2:
            mug.store.calls.fail("lease", LOST, after=True)
        gate = mug.source.calls.hold("load")
        reading = asyncio.create_task(mug.cache.read(KEY))
        await gate.arrival()
        seen.add(await slots.get(KEY))
        gate.open()
        await reading
    assert len(seen) == 5
    assert all(lease is not None and lease.startswith(b"L") for lease in seen)


async def test_request_after_a_write_does_not_join_the_load_under_way(mug: Process, slots: Slots) -> None:
    """R7: whoever asks after a load was sent gets the next one, which sees what was acknowledged before they asked."""
    await slots.evict(KEY)
    loaded = mug.source.calls.hold("load", after=True)
    before = asyncio.create_task(mug.cache.read(KEY))
    await loaded.arrival()
    assert (await mug.write(set_stock(KEY, 7))).proven
    after = asyncio.create_task(mug.cache.read(KEY))
    await _let_run()
    assert not after.done()
    loaded.open()
    assert (await before).state.version == 1
    assert (await after).state.version == 2


async def test_request_after_a_write_does_not_join_the_store_read_under_way(mug: Process, other: Process) -> None:
    """R7 for slots: an MGET that was sent before a write is not shared with a request that came after it."""
    read = mug.store.calls.hold("read", after=True)
    before = asyncio.create_task(mug.cache.read(KEY))
    await read.arrival()
    assert (await other.write(set_stock(KEY, 7))).proven
    after = asyncio.create_task(mug.cache.read(KEY))
    await _let_run()
    assert not after.done()
    read.open()
    assert (await before).state.version == 1
    assert ((await after).state.version, (await after).status) == (2, Status.HIT)


async def test_many_misses_of_one_key(mug: Process, slots: Slots) -> None:
    """G5: one load runs, one waits; a hundred requests that came meanwhile share the one that waits."""
    await slots.set(KEY, b"Lsomebody-else")  # so that every read is a miss
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


async def test_unknown_id_is_cached_as_version_zero(mug: Process, slots: Slots) -> None:
    """R8: absence is a state with a version and an epoch; the second reader of an unknown id hits, creation replaces it."""
    first, second = await mug.cache.read("unknown"), await mug.cache.read("unknown")
    assert isinstance(first.state, Absent)
    assert (first.state.version, first.status) == (0, Status.STORED)
    assert (second.state, second.status) == (first.state, Status.HIT)
    assert (await slots.get("unknown") or b"").startswith(b"T" + hash_of(first.state.epoch).encode() + b"0" * 19)

    assert (await mug.write(Put(draft("unknown")))).proven
    third = await mug.cache.read("unknown")
    assert isinstance(third.state, Value)
    assert (third.state.version, third.status) == (1, Status.HIT)


async def test_absence_loaded_before_a_creation_is_not_filled(mug: Process, other: Process) -> None:
    """R8: the fill of an absence meets the same guard as any other, so a product that was created stays visible."""
    loaded = other.source.calls.hold("load", after=True)
    reading = asyncio.create_task(other.cache.read("newcomer"))
    await loaded.arrival()
    assert (await mug.write(Put(draft("newcomer")))).proven
    loaded.open()
    assert (await reading).state.version == 0
    assert await mug.version("newcomer") == 1
    assert await other.version("newcomer") == 1


async def test_fill_fails(mug: Process, slots: Slots) -> None:
    """A store that fails while a reader fills costs the reader nothing but the entry."""
    for after in (False, True):
        await slots.evict(KEY)
        mug.store.calls.fail("publish", LOST, after=after)
        assert (await mug.cache.read(KEY)).state.version == 1
    assert mug.stats.publish_failures == 2


async def test_store_read_fails(mug: Process) -> None:
    """A store that cannot be read is said, not hidden: the read goes to the source as a bypass, and no lease is tried."""
    mug.store.calls.fail("read", LOST)
    leases = mug.store.calls.count()["lease"]
    read = await mug.cache.read(KEY)
    assert (read.state.version, read.status, read.detail) == (1, Status.BYPASS, "redis-unavailable")
    assert mug.store.calls.count()["lease"] == leases


async def test_refresh_meets_a_newer_entry(mug: Process, other: Process, slots: Slots) -> None:
    """A refresh that loaded before a write does not put the past over what the write published."""
    loaded = other.source.calls.hold("load", after=True)
    refreshing = asyncio.create_task(other.cache.read(KEY, refresh=True))
    await loaded.arrival()
    await mug.write(set_stock(KEY, 7))
    newest = await slots.get(KEY)
    loaded.open()
    assert ((await refreshing).state.version, (await refreshing).status) == (1, Status.REFRESHED)
    assert await slots.get(KEY) == newest


async def test_drop_fails(mug: Process) -> None:
    """Dropping an entry is the one request whose whole purpose is the store: its failure is the caller's to know."""
    mug.store.calls.fail("drop", LOST)
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
    gate = process.store.calls.hold("read", after=True)
    probe = asyncio.create_task(process.cache.read("probe-that-comes-last"))
    await gate.arrival()
    await _let_run()
    probe.cancel()
    gate.open()
    await asyncio.gather(probe, return_exceptions=True)

"""Reads on real servers that no schedule plays: leases, joined loads, and a store that fails."""

import asyncio
from dataclasses import replace

import pytest

from app.cache.errors import Overloaded, SourceUnavailable, StoreUnavailable
from app.cache.redis.store import RedisStore
from app.cache.write_through import Status
from app.products.commands import set_stock
from tests.cache.conftest import Slots
from tests.cache.rig import LONG_FENCE, LOST, Process, cold_reads, open_process
from tests.harness.script import PATIENCE_S
from tests.limits import lifetimes

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


@pytest.mark.parametrize("verb", ["load", "publish"])
async def test_close_waits_for_loads(mug: Process, verb: str) -> None:
    """Closing finishes a load that is under way, and one that waits for a fill."""
    gate = (mug.source.calls if verb == "load" else mug.store.calls).hold(verb)
    readers = [asyncio.create_task(mug.cache.read("cup"))]
    await gate.arrival()
    readers.append(asyncio.create_task(mug.cache.read("cup")))
    await _reads_answered(mug, 2)
    closing = asyncio.create_task(mug.cache.aclose())
    await _let_run()
    assert not closing.done()
    gate.open()
    await closing
    assert [reader.done() for reader in readers] == [True, True]


@pytest.mark.guarantee("G5")
async def test_load_waits_for_the_fill_of_its_key(mug: Process) -> None:
    """Whoever reads a slot while it is filled shares one further load with all others, and nobody else waits for the fill."""
    fill = mug.store.calls.hold("publish")
    first = asyncio.create_task(mug.cache.read("cup"))
    await fill.arrival()
    rest = [asyncio.create_task(mug.cache.read("cup")) for _ in range(3)]
    load = mug.source.calls.hold("load")
    rest.append(asyncio.create_task(mug.cache.read("saucer")))
    await load.arrival()
    load.open()
    rest.append(asyncio.create_task(mug.cache.read("cup")))
    await _reads_answered(mug, 5)
    assert sum("cup" in keys for keys in mug.source.calls.of("load")) == 1
    fill.open()
    await asyncio.gather(first, *rest)
    assert sum("cup" in keys for keys in mug.source.calls.of("load")) == 2


@pytest.mark.guarantee("R2")
async def test_lease_comes_with_the_reading(mug: Process) -> None:
    """After cold reads the lease is taken with the reading, for the first request of a batch; another then shares its load."""
    await cold_reads(mug)
    leases = mug.store.calls.count()["lease"]
    read = mug.store.calls.hold("read")
    occupied = asyncio.create_task(mug.cache.read("another"))
    await read.arrival()
    two = [asyncio.create_task(mug.cache.read("cup")) for _ in range(2)]
    await _let_run()
    read.open()
    reads = await asyncio.gather(occupied, *two)
    assert {read.status for read in reads} == {Status.STORED}
    assert mug.store.calls.count()["lease"] == leases
    tokens = [publication.token for publication in mug.store.publications if publication.state.key == "cup"]
    assert len(tokens) == 1
    assert tokens[0]


@pytest.mark.guarantee("R2")
async def test_load_fails_after_a_lease_with_the_reading(mug: Process, slots: Slots) -> None:
    """The lease is given back when the load fails."""
    await cold_reads(mug)
    mug.source.calls.lose("load")
    with pytest.raises(SourceUnavailable):
        await mug.cache.read("cup")
    await _empty(slots, "cup")


@pytest.mark.guarantee("R2")
@pytest.mark.parametrize("asked", ["with the reading", "alone"])
async def test_caller_leaves_before_the_lease_is_his(mug: Process, slots: Slots, asked: str) -> None:
    """A lease that is taken for a reader or a writer who has left is given back."""
    await cold_reads(mug)
    verb = "read" if asked == "with the reading" else "lease"
    gate = mug.store.calls.hold_reply(verb)
    leaver = asyncio.create_task(mug.cache.read("cup") if verb == "read" else mug.cache.lease(["cup"]))
    await gate.arrival()
    assert await slots.leased("cup")
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    gate.open()
    await _empty(slots, "cup")


@pytest.mark.guarantee("R2")
async def test_caller_leaves_before_the_load(mug: Process, slots: Slots) -> None:
    """A lease that came with a reading is given back if its reader leaves while another load is under way."""
    await cold_reads(mug)
    load = mug.source.calls.hold("load")
    first = asyncio.create_task(mug.cache.read("another"))
    await load.arrival()
    leaver = asyncio.create_task(mug.cache.read("cup"))
    await _reads_answered(mug, len(mug.store.calls.of("read")) + 1)
    assert await slots.leased("cup")
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    load.open()
    await first
    await _empty(slots, "cup")


@pytest.mark.guarantee("R2")
@pytest.mark.usefixtures("mug")
async def test_refused_loads_give_their_leases_back(redis_url: str, database_url: str, namespace: str, slots: Slots) -> None:
    """Leases that came with a reading are given back if no load may wait any more."""
    async with open_process(redis_url, database_url, namespace, config=replace(LONG_FENCE, queue_limit=1)) as small:
        await cold_reads(small)
        load = small.source.calls.hold("load")
        waiting = []
        for key in ("another", "third"):
            waiting.append(asyncio.create_task(small.cache.read(key)))
            if key == "another":
                await load.arrival()
        async with asyncio.timeout(PATIENCE_S):
            while not await slots.leased("third"):
                await asyncio.sleep(0.01)
        await _let_run()
        with pytest.raises(Overloaded):
            await small.cache.read("cup")
        await _empty(slots, "cup")
        load.open()
        await asyncio.gather(*waiting)


async def _empty(slots: Slots, key: str) -> None:
    """Return when a slot is empty."""
    async with asyncio.timeout(PATIENCE_S):
        while await slots.get(key) is not None:
            await asyncio.sleep(0.01)


@pytest.mark.guarantee("G3")
async def test_lease_with_a_reading_fails(mug: Process, namespace: str) -> None:
    """A server that cannot store a lease is read all the same: an error of the script is no error of the reading."""
    store = RedisStore(mug.redis, namespace, lifetimes(lease_ttl_ms=0))
    reading = await store.read([KEY, "cup"], ["cup"])
    assert (len(reading.epoch) > 0, reading.leases) == (True, {})
    assert [raw is None for raw in reading.slots] == [False, True]
    with pytest.raises(StoreUnavailable):
        await store.lease(["cup"])


async def test_hits_end_the_leases_with_readings(mug: Process, other: Process) -> None:
    """Reads of slots that others have filled ask for no leases once they are usually filled."""
    await cold_reads(mug)
    for number in range(300):
        await other.cache.read(f"filled-{number}")
    mug.store.leased_with_reads.clear()
    statuses = [(await mug.cache.read(f"filled-{number}")).status for number in range(300)]
    assert set(statuses) == {Status.HIT}
    assert 0 < len(mug.store.leased_with_reads) < 200
    assert await _is_asked_no_more(mug)


async def _is_asked_no_more(process: Process) -> bool:
    process.store.leased_with_reads.clear()
    await process.cache.read("cold-again")
    return not process.store.leased_with_reads


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

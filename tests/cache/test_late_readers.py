"""Readers who come to their load after their slot was filled."""

import asyncio
from collections.abc import Sequence

import pytest

from app.cache.errors import SourceUnavailable
from app.cache.ports import Reading
from app.cache.write_through import Status
from app.products.commands import Put
from tests.cache.conftest import Slots
from tests.cache.rig import Process, draft


async def _let_run() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def peeked(process: Process, keys: Sequence[str]) -> list[Reading]:
    """Read slots as the server does before a request comes to the endpoint; return what was found in slots without a state."""
    found = [asyncio.get_running_loop().create_future() for _ in keys]
    for key, future in zip(keys, found, strict=True):
        process.cache.peek(key, future.set_result)
    readings = await asyncio.gather(*found)
    assert all(isinstance(reading, Reading) for reading in readings)
    return readings


@pytest.mark.guarantee("G5")
@pytest.mark.guarantee("G7")
async def test_one_load_for_any_number_of_readers(mug: Process) -> None:
    """Whoever found a slot empty that is filled before he loads reads it again: those who waited, and those who come later."""
    readings = await peeked(mug, ["cup"] * 100)
    fill = mug.store.calls.hold("publish")
    reads = [asyncio.create_task(mug.cache.read("cup", reading=readings[0]))]
    await fill.arrival()
    reads += [asyncio.create_task(mug.cache.read("cup", reading=reading)) for reading in readings[1:50]]
    await _let_run()
    before = mug.store.calls.count()["read"]
    fill.open()
    first, *waited = await asyncio.gather(*reads)
    late = await asyncio.gather(*(mug.cache.read("cup", reading=reading) for reading in readings[50:]))
    assert (first.status, {read.status for read in [*waited, *late]}) == (Status.STORED, {Status.HIT})
    assert sum("cup" in keys for keys in mug.source.calls.of("load")) == 1
    assert mug.store.calls.count()["read"] - before <= 4  # of each group the first is sent alone


@pytest.mark.guarantee("G5")
async def test_two_loads_if_the_lease_comes_second(mug: Process) -> None:
    """A load fills nothing if the lease came with the reading of somebody slower, whose load then serves all others."""
    for number in range(20):
        await mug.cache.read(f"cold-{number}")
    readings = await peeked(mug, ["cup"] * 100)
    assert [bool(reading.leases) for reading in readings] == [True] + 99 * [False]
    load = mug.source.calls.hold("load")
    reads = [asyncio.create_task(mug.cache.read("cup", reading=readings[1]))]
    await load.arrival()
    reads += [asyncio.create_task(mug.cache.read("cup", reading=reading)) for reading in (readings[0], *readings[2:50])]
    await _let_run()
    load.open()
    await asyncio.gather(*reads)
    late = await asyncio.gather(*(mug.cache.read("cup", reading=reading) for reading in readings[50:]))
    assert {read.status for read in late} == {Status.HIT}
    assert sum("cup" in keys for keys in mug.source.calls.of("load")) == 2


@pytest.mark.guarantee("G3")
async def test_a_spared_load_does_not_fail_with_others(mug: Process) -> None:
    """PostgreSQL is away: who waits for a row fails, and who can read a filled slot again does not."""
    [cup] = await peeked(mug, ["cup"])
    assert (await mug.cache.read("cup")).status is Status.STORED
    busy = mug.source.calls.hold("load")
    others = [asyncio.create_task(mug.cache.read("another"))]
    await busy.arrival()
    others.append(asyncio.create_task(mug.cache.read("third")))
    late = asyncio.create_task(mug.cache.read("cup", reading=cup))
    await _let_run()
    mug.source.calls.lose("load")
    busy.open()
    assert (await late).status is Status.HIT
    assert [type(error) for error in (await asyncio.gather(*others, return_exceptions=True))][1] is SourceUnavailable


@pytest.mark.guarantee("G1")
async def test_second_reading_is_of_now(mug: Process, other: Process) -> None:
    """A late reader answers what was acknowledged before, although the row was loaded earlier; and loads if nothing is left."""
    readings = await peeked(mug, ["cup"] * 4)
    assert (await mug.cache.read("cup", reading=readings[0])).status is Status.STORED
    await other.write(Put(draft("cup")))
    read = await mug.cache.read("cup", reading=readings[1])
    assert (read.state.version, read.status) == (1, Status.HIT)
    await mug.cache.drop("cup")
    loads = mug.source.calls.count()["load"]
    assert (await mug.cache.read("cup", reading=readings[2])).status is Status.STORED
    assert mug.source.calls.count()["load"] == loads + 1
    mug.store.calls.lose("read")
    assert (await mug.cache.read("cup", reading=readings[3])).status is Status.BYPASS


@pytest.mark.guarantee("G7")
async def test_slots_that_were_emptied_after_their_fill(mug: Process, slots: Slots) -> None:
    """An ordinary miss reads its slot once, also if this process has filled the slot before."""
    assert (await mug.cache.read("cup")).status is Status.STORED
    await slots.evict("cup")
    reads = mug.store.calls.count()["read"]
    [reading] = await peeked(mug, ["cup"])
    assert (await mug.cache.read("cup", reading=reading)).status is Status.STORED
    assert mug.store.calls.count()["read"] == reads + 1

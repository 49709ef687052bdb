"""Schedules of reads and writes. In each, exactly one guard prevents a stale read, and its mutant allows it.

Each is named after what happens.
"""

import asyncio

from app.cache.policies import WritePolicy
from app.cache.write_through import Status
from tests.harness.script import Gate
from tests.schedules.on_fakes import FakeStage
from tests.schedules.stage import KEY, M_co, Member, Stage, trusted_again


async def publish_is_lost(stage: Stage[Member]) -> None:
    """A publish does not reach the server, and every reader still trusts the slot."""
    one, two = await stage.trusted()
    await stage.lost_write(two)
    await stage.read(one)


async def publishes_arrive_in_the_other_order(stage: Stage[Member]) -> None:
    """Two writers commit one after the other, and publish the other way round."""
    await _in_the_other_order(stage, "one's", "two's")


async def write_arrives_after_a_deletion(stage: Stage[Member]) -> None:
    """Two writers publish in the other order, and the second one deletes: the deleted row must not come back."""
    await _in_the_other_order(stage, "one's", "")


async def deletion_arrives_after_a_creation(stage: Stage[Member]) -> None:
    """Two writers publish in the other order, and the second one creates again what the first one deleted."""
    await _in_the_other_order(stage, "", "two's")


async def _in_the_other_order(stage: Stage[Member], early: str, late: str) -> None:
    one, two = await stage.trusted()
    async with stage.held(one.redis.hold("publish"), stage.write(one, content=early)):
        await stage.write(two, content=late)
    await stage.finds(one, 3, Status.HIT)


async def publish_arrives_on_its_own_lease(stage: Stage[Member]) -> None:
    """A writer leases the empty slot and commits; another one commits and publishes; then the first one publishes."""
    one, two = await stage.emptied()
    async with stage.held(one.redis.hold("publish"), stage.write(one)):
        await stage.write(two)
    await stage.read(one)


async def refresh_arrives_after_a_write(stage: Stage[Member]) -> None:
    """A client refreshes an entry; a writer commits and publishes; then the loaded state is published."""
    one, two = await stage.trusted()
    async with stage.held(one.postgres.hold_reply("load"), one.cache.read(KEY, refresh=True)):
        await stage.write(two)
    await stage.finds(one, 2, Status.HIT)


async def absence_arrives_after_a_creation(stage: Stage[Member]) -> None:
    """A reader leases and finds no row; a writer creates it and publishes; the reader fills."""
    one, two = await stage.member(), await stage.member()
    assert await one.audit()
    async with stage.held(one.redis.hold("publish"), stage.read(one)):
        await stage.write(two)
    await stage.read(two)


async def publish_arrives_after_an_eviction(stage: Stage[Member]) -> None:
    """Two writers publish in the other order, and the newer state is evicted before the older one arrives."""
    one, two = await stage.trusted()
    async with stage.held(one.redis.hold("publish"), stage.write(one)):
        await stage.write(two)
        await stage.evict()
    await stage.read(one)


async def fill_arrives_after_a_write(stage: Stage[Member]) -> None:
    """A reader leases and loads; a writer commits and publishes; the reader fills."""
    one, two = await stage.emptied()
    async with stage.held(one.redis.hold("publish"), stage.read(one)):
        await stage.write(two)
    await stage.read(two)


async def fill_with_the_lease_of_a_reading_arrives_after_a_write(stage: Stage[Member]) -> None:
    """A reader's lease comes with its reading, and it loads; a writer commits and publishes; the reader fills."""
    one, two = await stage.emptied()
    await _expect_empty_slots(one)
    async with stage.held(one.redis.hold("publish"), stage.read(one)):
        await stage.write(two)
    await stage.read(two)


async def lease_comes_with_a_later_reading(stage: Stage[Member]) -> None:
    """A reader leases and loads; a writer is acknowledged; a second reader's lease comes with its reading; the first fills."""
    one, two = await stage.emptied()
    await _expect_empty_slots(one)
    loaded = one.postgres.hold_reply("load")
    first = stage.spawn(stage.read(one))
    await loaded.arrival()
    await stage.write(two)
    second = stage.spawn(stage.read(one))
    await asyncio.sleep(0.1)  # the second reading is there
    load = one.postgres.hold("load")
    loaded.open()
    await load.arrival()
    await first
    await stage.read(two)
    load.open()
    await second


async def _expect_empty_slots(member: Member) -> None:
    """Read so many keys with empty slots that the next read asks for its lease at once."""
    for number in range(20):
        await member.cache.read(f"cold-{number}")


async def fill_arrives_after_a_deletion(stage: Stage[Member]) -> None:
    """A reader leases and loads; a writer commits and deletes the slot; the reader fills."""
    one, two = await stage.emptied()
    async with stage.held(one.redis.hold("publish"), stage.read(one)):
        await stage.write(two, policy=WritePolicy.ASIDE)
    await stage.finds(two, 2, Status.STORED)
    await stage.write(two, policy=WritePolicy.ASIDE)
    await stage.finds(one, 3, Status.STORED)


async def write_goes_around_the_slot(stage: Stage[Member]) -> None:
    """A writer commits and leaves the slot to the audit, while every reader trusts it."""
    one, two = await stage.trusted()
    await stage.write(two, policy=WritePolicy.AROUND)
    await stage.read(one)


async def fill_arrives_on_another_readers_lease(stage: Stage[Member]) -> None:
    """A reader leases and loads; a writer commits; the slot is evicted and leased by another reader; the first one fills."""
    one, two = await stage.emptied()
    async with stage.held(one.redis.hold("publish"), stage.read(one)):
        await stage.write(two)
        await two.cache.drop(KEY)
        load = two.postgres.hold("load")
        other = stage.spawn(stage.read(two))
        await load.arrival()
    await stage.read(await stage.member())
    load.open()
    await other


async def lease_waits_for_a_write(stage: Stage[Member]) -> None:
    """A reader's lease is held up while a writer commits and publishes and the slot is evicted."""
    one, two = await stage.emptied()
    async with stage.held(one.redis.hold("lease"), stage.read(one)):
        await stage.write(two)
        await asyncio.sleep(0.1)  # what the writer began to load by itself has filled the slot by now
        await two.cache.drop(KEY)
    await stage.read(two)


async def lease_arrives_late(stage: Stage[Member]) -> None:
    """A reader's lease gets no answer and arrives after a writer's publish; then the reader's publish arrives."""
    await _lease_lands_late(stage, evicted=True)


async def lease_is_repeated(stage: Stage[Member]) -> None:
    """A reader's lease gets no answer and is carried out after a writer has published, whatever is sent after it."""
    await _lease_lands_late(stage, evicted=False)


async def _lease_lands_late(stage: Stage[Member], *, evicted: bool) -> None:
    one, two = await stage.emptied()
    lease = one.redis.lose("lease")
    fill = one.redis.hold("publish")
    reader = stage.spawn(stage.read(one))
    await asyncio.sleep(0.1)  # a reader without a token has its answer by now, and publishes nothing
    await stage.write(two)
    if evicted:
        await two.cache.drop(KEY)
    await lease.land()
    fill.open()
    await reader
    await stage.read(two)


async def load_under_way_during_a_write(stage: Stage[Member]) -> None:
    """A load is under way, its state already read; a writer is acknowledged; the next read of that process begins."""
    one, two = await stage.emptied()
    await _read_again_after_a_write(stage, one.redis.hold("publish"), one, two)


async def read_under_way_during_a_write(stage: Stage[Member]) -> None:
    """A read's reply is on its way; a writer is acknowledged; the next read of that process begins."""
    one, two = await stage.trusted()
    await stage.read(one)
    await _read_again_after_a_write(stage, one.redis.hold_reply("read"), one, two)


async def _read_again_after_a_write(stage: Stage[Member], gate: Gate, reader: Member, writer: Member) -> None:
    async with stage.held(gate, stage.read(reader)):
        await stage.write(writer)
        late = stage.spawn(stage.read(reader))
        await asyncio.sleep(0.1)
    await late


async def absence_is_handed_on_before_a_write(stage: Stage[Member]) -> None:
    """A hot read passes a cached absence on; a writer creates the row; the slot is emptied and read again."""
    one, two = await stage.member(), await stage.member()
    assert await one.audit()
    await stage.read(one)
    await stage.read(one)
    await stage.write(two)
    await one.cache.drop(KEY)
    await stage.read(one)


async def writer_dies_before_its_publish(stage: FakeStage) -> None:
    """A writer commits and dies; its client repeats the write at another process, which recognises the retry."""
    # Only on the fakes: how a retry is recognised is tested in tests/products/test_idempotency.py.
    one = await _after_a_dead_writer(stage, mark="key 1")
    await stage.read(one)


async def another_writes_the_same(stage: Stage[Member]) -> None:
    """A writer commits and dies; another one sends the same write, which changes nothing any more."""
    one = await _after_a_dead_writer(stage, content="said twice")
    await stage.finds(one, 2, Status.HIT)


async def _after_a_dead_writer(stage: Stage[M_co], *, content: str | None = None, mark: str = "") -> M_co:
    one, two = await stage.trusted()
    publish = two.redis.hold("publish")
    stage.spawn(stage.write(two, content=content, mark=mark))
    await publish.arrival()
    await stage.write(one, content=content, mark=mark)
    return one


async def settling_without_the_database(stage: Stage[Member]) -> None:
    """A publish is lost, and the audit row cannot be read."""
    one, two = await stage.trusted()
    two.postgres.lose("standing", times=1_000)
    await stage.lost_write(two)
    await stage.read(one)


async def slot_of_an_epoch_that_ended(stage: Stage[Member]) -> None:
    """An epoch ends; the first write of the next one is settled without reaching the slot; then an audit begins clean."""
    one, two = await stage.trusted()
    await stage.write(two)
    await stage.truncate()
    await stage.lost_write(two)
    await trusted_again(one)
    await stage.read(one)


async def publish_onto_a_slot_of_an_epoch_that_ended(stage: Stage[Member]) -> None:
    """An epoch ends and an audit begins clean; then the first write of the new epoch, of a lower version, is published."""
    one, two = await stage.trusted()
    await stage.write(two)
    await stage.truncate()
    await trusted_again(one)
    await stage.write(two)
    await stage.read(one)

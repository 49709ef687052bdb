"""Schedules of reads and writes: exactly one guard stands between a reader and the past; its mutant lets the reader through.

Each is named by what happens. Times are virtual; a fence lives two seconds.
"""

import asyncio

from tests.simulation.stage import Stage, trusted_again


async def publish_is_lost(stage: Stage) -> None:
    """A publish does not reach the server, and every reader still trusts the slot."""
    one, two = await stage.trusted()
    two.redis.lose("publish")
    await stage.write(two)
    await stage.read(one)


async def publishes_arrive_in_the_other_order(stage: Stage) -> None:
    """Two writers commit one after the other, and publish the other way round."""
    one, two = await stage.trusted()
    publish = one.redis.hold("publish")
    first = stage.spawn(stage.write(one))
    await publish.arrival()
    await stage.write(two)
    publish.open()
    await first
    await stage.read(one)


async def publish_arrives_after_an_eviction(stage: Stage) -> None:
    """As before, and the newer state was evicted before the older one arrives."""
    one, two = await stage.trusted()
    publish = one.redis.hold("publish")
    first = stage.spawn(stage.write(one))
    await publish.arrival()
    await stage.write(two)
    del stage.red.data.slots["k"]
    publish.open()
    await first
    await stage.read(one)


async def fill_arrives_after_a_write(stage: Stage) -> None:
    """A reader leases and loads; a writer commits and publishes; the reader fills."""
    one, two = await stage.trusted()
    await one.cache.drop("k")
    fill = one.redis.hold("publish")
    reader = stage.spawn(stage.read(one))
    await fill.arrival()
    await stage.write(two)
    fill.open()
    await reader
    await stage.read(two)


async def fill_arrives_on_another_readers_lease(stage: Stage) -> None:
    """A reader leases and loads; a writer commits; the slot is evicted and leased by another reader; the first one fills."""
    one, two = await stage.trusted()
    await one.cache.drop("k")
    fill = one.redis.hold("publish")
    reader = stage.spawn(stage.read(one))
    await fill.arrival()
    await stage.write(two)
    await two.cache.drop("k")
    load = two.postgres.hold("load")
    other = stage.spawn(stage.read(two))
    await load.arrival()
    fill.open()
    await reader
    await stage.read(stage.member())
    load.open()
    await other


async def lease_waits_for_a_write(stage: Stage) -> None:
    """A reader's lease is held up while a writer commits and publishes and the slot is evicted."""
    one, two = await stage.trusted()
    await one.cache.drop("k")
    lease = one.redis.hold("lease")
    reader = stage.spawn(stage.read(one))
    await lease.arrival()
    await stage.write(two)
    await asyncio.sleep(0.1)  # what the writer began to load by itself has filled the slot by now
    await two.cache.drop("k")
    lease.open()
    await reader
    await stage.read(two)


async def lease_arrives_late(stage: Stage) -> None:
    """A reader's lease has no answer and arrives after a writer's publish; then the reader's publish arrives."""
    one, two = await stage.trusted()
    await one.cache.drop("k")
    lease = one.redis.lose("lease")
    fill = one.redis.hold("publish")
    reader = stage.spawn(stage.read(one))
    await asyncio.sleep(0.1)  # a reader without a token has its answer by now, and publishes nothing
    await stage.write(two)
    await two.cache.drop("k")
    lease.land()
    fill.open()
    await reader
    await stage.read(two)


async def lease_is_repeated(stage: Stage) -> None:
    """A reader's lease has no answer; whatever is sent after it, the first one lands when a writer has published."""
    one, two = await stage.trusted()
    await one.cache.drop("k")
    lease = one.redis.lose("lease")
    fill = one.redis.hold("publish")
    reader = stage.spawn(stage.read(one))
    await asyncio.sleep(0.1)
    await stage.write(two)
    lease.land()
    fill.open()
    await reader
    await stage.read(two)


async def load_under_way_during_a_write(stage: Stage) -> None:
    """A load is under way, its state already read; a writer is acknowledged; the next read of that process begins."""
    one, two = await stage.trusted()
    await one.cache.drop("k")
    fill = one.redis.hold("publish")
    early = stage.spawn(stage.read(one))
    await fill.arrival()
    await stage.write(two)
    late = stage.spawn(stage.read(one))
    await asyncio.sleep(0.1)
    fill.open()
    await early
    await late


async def read_under_way_during_a_write(stage: Stage) -> None:
    """A read's reply is on its way; a writer is acknowledged; the next read of that process begins."""
    one, two = await stage.trusted()
    await stage.read(one)
    reply = one.redis.hold_reply("read")
    early = stage.spawn(stage.read(one))
    await reply.arrival()
    await stage.write(two)
    late = stage.spawn(stage.read(one))
    await asyncio.sleep(0.1)
    reply.open()
    await early
    await late


async def absence_is_handed_on_before_a_write(stage: Stage) -> None:
    """A hot read hands a cached absence on; a writer creates the row; the slot is emptied and read again."""
    one, two = stage.member(), stage.member()
    assert await one.audit()
    await stage.read(one)
    await stage.read(one)
    await stage.write(two)
    await one.cache.drop("k")
    await stage.read(one)


async def writer_dies_before_its_publish(stage: Stage) -> None:
    """A writer commits and dies; its client repeats the write elsewhere, where it is known to be done."""
    one, two = await stage.trusted()
    publish = two.redis.hold("publish")
    stage.spawn(stage.write(two, mark="key 1"))
    await publish.arrival()
    await stage.write(one, mark="key 1")
    await stage.read(one)


async def another_writes_the_same(stage: Stage) -> None:
    """A writer commits and dies; somebody else wants the same, and finds nothing left to change."""
    one, two = await stage.trusted()
    publish = two.redis.hold("publish")
    stage.spawn(stage.write(two, content="said twice"))
    await publish.arrival()
    await stage.write(one, content="said twice")
    await stage.read(one)


async def settling_without_the_database(stage: Stage) -> None:
    """A publish is lost, and the audit row cannot be read."""
    one, two = await stage.trusted()
    two.redis.lose("publish")
    two.postgres.lose("standing", times=1_000)
    await stage.write(two)
    await stage.read(one)


async def server_restarts_from_a_snapshot(stage: Stage) -> None:
    """The server comes back with older slots, and the fence of the time of its snapshot."""
    _, two = await stage.trusted()
    snapshot = stage.red.data.copy()
    await stage.write(two)
    stage.red.restart(snapshot)
    await stage.read(stage.member())


async def writer_meets_the_new_server_first(stage: Stage) -> None:
    """A server was promoted; a writer publishes there while a reader's connection still leads to the old one."""
    _, reader = await stage.trusted()
    stage.blue.restart(stage.red.data.copy())
    await stage.write(stage.member(stage.blue))
    await stage.read(reader)


async def slot_of_an_epoch_that_ended(stage: Stage) -> None:
    """An epoch ends; the first write of the next one is settled without reaching the slot; then an audit begins clean."""
    one, two = await stage.trusted()
    await stage.write(two)
    assert stage.postgres.truncate()
    two.redis.lose("publish")
    await stage.write(two)
    await trusted_again(one)
    await stage.read(one)


async def publish_onto_a_slot_of_an_epoch_that_ended(stage: Stage) -> None:
    """An epoch ends and an audit begins clean; then the first write of the new epoch, of a lower version, is published."""
    one, two = await stage.trusted()
    await stage.write(two)
    assert stage.postgres.truncate()
    await trusted_again(one)
    await stage.write(two)
    await stage.read(one)

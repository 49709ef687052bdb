"""Schedules of audits: exactly one guard stands between a reader and the past; its mutant lets the reader through.

Each is named by what happens. Times are virtual; a fence lives two seconds.
"""

import asyncio

from tests.fakes.postgres import NAMESPACE
from tests.simulation.stage import FENCE_S, Stage, trusted_again


async def audit_sets_its_fence_late(stage: Stage) -> None:
    """A cycle is held up before it sets its fence; a write that settled by the announced time is acknowledged before."""
    one, two = await stage.trusted()
    await asyncio.sleep(0.9 * FENCE_S)
    trust = one.redis.hold("trust")
    cycle = stage.spawn(one.audit())
    await trust.arrival()
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await asyncio.sleep(0.9 * FENCE_S)
    trust.open()
    await cycle
    await write
    await stage.read(one)


async def lease_outlives_the_audit(stage: Stage) -> None:
    """A reader loads; a writer commits and its publish is lost; an audit ends; the reader fills."""
    one, two = await stage.trusted()
    await one.cache.drop("k")
    fill = one.redis.hold("publish")
    reader = stage.spawn(stage.read(one))
    await fill.arrival()
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await asyncio.sleep(0.1)
    await two.audit()
    await write
    fill.open()
    await reader
    await stage.read(two)


async def shorter_fence_is_announced(stage: Stage) -> None:
    """A process with a shorter fence announces and stops; a writer settles; the longer fence still lives."""
    one, two = await stage.trusted()
    short = stage.member(fence_ttl_ms=200)
    snapshot = short.postgres.hold("snapshot")
    stage.spawn(short.audit())
    await snapshot.arrival()
    two.redis.lose("publish")
    await stage.write(two)
    await stage.read(one)


async def server_takes_over_old_data(stage: Stage) -> None:
    """In mid-cycle the server follows a lagging one and is promoted again; the next audit starts where this one ended."""
    one, two = await stage.trusted()
    lagging = stage.red.data.copy()
    await stage.write(two)
    trust = one.redis.hold("trust")
    cycle = stage.spawn(one.audit())
    await trust.arrival()
    stage.red.demote(lagging)
    stage.red.promote()
    trust.open()
    await cycle
    await trusted_again(stage.member())
    await stage.read(stage.member())


async def server_takes_over_old_data_under_a_late_cycle(stage: Stage) -> None:
    """As before, but the cycle is held up beyond its fence's life: only the watermark is left for it to set."""
    one, two = await stage.trusted()
    lagging = stage.red.data.copy()
    await stage.write(two)
    trust = one.redis.hold("trust")
    cycle = stage.spawn(one.audit())
    await trust.arrival()
    await asyncio.sleep(1.1 * FENCE_S)
    stage.red.demote(lagging)
    stage.red.promote()
    trust.open()
    await cycle
    await trusted_again(stage.member())
    await stage.read(stage.member())


async def server_takes_over_old_data_without_a_watermark(stage: Stage) -> None:
    """As before, but the lagging server had lost its watermark, too."""
    one, two = await stage.trusted()
    lagging = stage.red.data.copy()
    lagging.watermark = None
    await stage.write(two)
    trust = one.redis.hold("trust")
    cycle = stage.spawn(one.audit())
    await trust.arrival()
    stage.red.demote(lagging)
    stage.red.promote()
    trust.open()
    await cycle
    await trusted_again(stage.member())
    await stage.read(stage.member())


async def cycle_moves_to_another_server(stage: Stage) -> None:
    """In mid-cycle connections go to another server, which lags."""
    one, two = await stage.trusted()
    stage.blue.restart(stage.red.data.copy())
    await stage.write(two)
    trust = one.redis.hold("verify")
    cycle = stage.spawn(one.audit())
    await trust.arrival()
    trust.open()
    await asyncio.sleep(0)
    one.server = stage.blue
    await cycle
    await asyncio.sleep(1.1 * FENCE_S)
    await trusted_again(one)
    await stage.read(stage.member(stage.blue))


async def audit_meets_the_new_server_first(stage: Stage) -> None:
    """As before, and an audit has run on the new server."""
    _, reader = await stage.trusted()
    stage.blue.restart(stage.red.data.copy())
    moved = stage.member(stage.blue)
    await moved.audit()
    await stage.write(moved)
    await stage.read(reader)


async def dump_names_the_new_server(stage: Stage) -> None:
    """As before, but a dump was restored whose audit row names the new server already."""
    stage.postgres.audits[NAMESPACE].server = stage.blue.identity
    dump = stage.postgres.image()
    _, reader = await stage.trusted()
    assert stage.postgres.restore(dump)
    moved = stage.member(stage.blue)
    await moved.audit()
    await stage.write(moved)
    await stage.read(reader)


async def dump_is_restored_under_a_live_fence(stage: Stage) -> None:
    """A dump brings an audit row back that knows nothing of the fence that lives; a publish is lost."""
    dump = stage.postgres.image()
    one, two = await stage.trusted()
    assert stage.postgres.restore(dump)
    two.redis.lose("publish")
    await stage.write(two)
    await stage.read(one)


async def short_audit_begins_after_a_restore(stage: Stage) -> None:
    """As before, and an audit of a shorter fence, on a promoted copy, has announced itself in the new epoch."""
    dump = stage.postgres.image()
    one, two = await stage.trusted()
    stage.blue.restart(stage.red.data.copy())
    assert stage.postgres.restore(dump)
    short = stage.member(stage.blue, fence_ttl_ms=200)
    await short.audit()
    two.redis.lose("publish")
    await stage.write(two)
    await stage.read(one)


async def dump_is_restored_before_a_cycle_completes(stage: Stage) -> None:
    """A dump is restored between the last two steps of a cycle, whose number means another cycle then."""
    one, two = await stage.trusted()
    dump = stage.postgres.image()
    await one.audit()
    await one.audit()
    complete = one.postgres.hold("complete")
    cycle = stage.spawn(one.audit())
    await complete.arrival()
    assert stage.postgres.restore(dump)
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await asyncio.sleep(0.1)
    complete.open()
    await cycle
    await asyncio.sleep(0.1)
    await stage.read(one)
    await write
    await stage.read(one)


async def commit_between_snapshot_and_announcement(stage: Stage) -> None:
    """A writer commits, its publish is lost, and it reads the audit row just before a cycle is announced."""
    one, two = await stage.trusted()
    announce = one.postgres.hold("announce")
    cycle = stage.spawn(one.audit())
    await announce.arrival()
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await asyncio.sleep(0.1)
    announce.open()
    await cycle
    await asyncio.sleep(0.1)
    await stage.read(one)
    await write


async def fill_between_purge_and_snapshot(stage: Stage) -> None:
    """The watermark is lost; a reader fills and a writer commits before the cycle that purges takes its snapshot."""
    one, two = await stage.trusted()
    stage.red.data.watermark = None
    snapshot = one.postgres.hold("snapshot")
    cycle = stage.spawn(one.audit())
    await snapshot.arrival()
    await stage.read(two)
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await asyncio.sleep(0.1)
    snapshot.open()
    await cycle
    await write
    await trusted_again(one)
    await stage.read(two)


async def session_is_replaced_in_a_promotion(stage: Stage) -> None:
    """No fence lives; a standby that lags is promoted between a cycle's announcement and its snapshot."""
    one, two = await stage.trusted()
    await asyncio.sleep(1.1 * FENCE_S)
    lagging = stage.postgres.image()
    snapshot = one.postgres.hold("snapshot")
    cycle = stage.spawn(one.audit())
    await snapshot.arrival()
    stage.postgres.promote(lagging)
    snapshot.open()
    await cycle
    await one.cache.drop("k")
    await stage.read(one)
    await stage.read(two)
    two.redis.lose("publish")
    await stage.write(two)
    await stage.read(one)


async def cycle_is_held_up_before_it_compares(stage: Stage) -> None:
    """A publish is lost; an audit is announced after the commit, and has not looked at the slot yet."""
    one, two = await stage.trusted()
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await asyncio.sleep(0.1)
    verify = one.redis.hold("verify")
    cycle = stage.spawn(one.audit())
    await verify.arrival()
    await asyncio.sleep(0.1)
    await stage.read(one)
    verify.open()
    await cycle
    await write


async def transaction_open_across_an_audit(stage: Stage) -> None:
    """A transaction is open while an audit takes its snapshot; it commits, and its publish is lost."""
    one, two = await stage.trusted()
    commit = two.postgres.hold("commit")
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await commit.arrival()
    await trusted_again(one)
    commit.open()
    await asyncio.sleep(0.1)
    await trusted_again(one)
    await write
    await stage.read(one)


async def audit_under_way_during_a_commit(stage: Stage) -> None:
    """A publish is lost; an audit that took its snapshot before the commit completes after it."""
    one, two = await stage.trusted()
    trust = one.redis.hold("trust")
    cycle = stage.spawn(one.audit())
    await trust.arrival()
    two.redis.lose("publish")
    write = stage.spawn(stage.write(two))
    await asyncio.sleep(0.1)
    trust.open()
    await cycle
    await asyncio.sleep(0.1)
    await stage.read(one)
    await write

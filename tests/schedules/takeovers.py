"""Schedules of servers that take over other data: a replica, a snapshot, a dump, a standby that lags.

They run only on the fakes, because each takeover must happen between two commands of one audit or one write, which cannot be
timed on a real server. ``tests/outages`` does the same to real servers at random moments.
"""

import asyncio

from tests.fakes.rows import NAMESPACE
from tests.schedules.on_fakes import FakeStage
from tests.schedules.stage import KEY, trusted_again


async def server_restarts_from_a_snapshot(stage: FakeStage) -> None:
    """The server comes back with older slots, and the fence of the time of its snapshot."""
    _, two = await stage.trusted()
    snapshot = stage.red.data.copy()
    await stage.write(two)
    stage.red.restart(snapshot)
    await stage.read(await stage.member())


async def writer_meets_the_new_server_first(stage: FakeStage) -> None:
    """A server was promoted; a writer publishes there while a reader is still connected to the old one."""
    _, reader = await stage.trusted()
    stage.blue.restart(stage.red.data.copy())
    await stage.write(await stage.member(stage.blue))
    await stage.read(reader)


async def writer_stays_on_another_server(stage: FakeStage) -> None:
    """Two servers are masters; one was trusted earlier, and a writer still publishes there; a reader is on the other one."""
    before = await stage.member(stage.blue)
    await trusted_again(before)
    await stage.read(before)
    await asyncio.sleep(1.1 * stage.fence_s)
    _, reader = await stage.trusted()
    await stage.write(before)
    await stage.read(reader)


async def server_takes_over_old_data(stage: FakeStage) -> None:
    """During a cycle the server follows a lagging one and is promoted again; the next audit starts where this one ended."""
    await _take_over_old_data(stage)


async def server_takes_over_old_data_under_a_late_cycle(stage: FakeStage) -> None:
    """The server takes over old data during a cycle that outlasts its fence, so that it sets only the watermark."""
    await _take_over_old_data(stage, after_s=1.1 * stage.fence_s)


async def server_takes_over_old_data_without_a_watermark(stage: FakeStage) -> None:
    """The server takes over old data during a cycle, and the lagging server had lost its watermark, too."""
    await _take_over_old_data(stage, watermark=False)


async def _take_over_old_data(stage: FakeStage, *, after_s: float = 0.0, watermark: bool = True) -> None:
    one, two = await stage.trusted()
    lagging = stage.red.data.copy()
    if not watermark:
        lagging.watermark = None
    await stage.write(two)
    async with stage.held(one.redis.hold("trust"), one.audit()):
        await asyncio.sleep(after_s)
        stage.red.demote(lagging)
        stage.red.promote()
    await trusted_again(await stage.member())
    await stage.read(await stage.member())


async def keys_are_copied_one_by_one(stage: FakeStage) -> None:
    """A move of keys breaks off and leaves a slot on another server; a write is audited; then the watermark is moved there."""
    one, two = await stage.trusted()
    stage.blue.data.slots[KEY] = stage.red.data.slots[KEY]
    await stage.write(two)
    assert await one.audit()
    await asyncio.sleep(1.1 * stage.fence_s)
    stage.blue.data.watermark = stage.red.data.watermark
    moved = await stage.member(stage.blue)
    await trusted_again(moved)
    await stage.read(moved)


async def cycle_moves_to_another_server(stage: FakeStage) -> None:
    """During a cycle new connections lead to another server, which lags."""
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
    await asyncio.sleep(1.1 * stage.fence_s)
    await trusted_again(one)
    await stage.read(await stage.member(stage.blue))


async def audit_meets_the_new_server_first(stage: FakeStage) -> None:
    """Connections go to another server, which lags and has been audited."""
    _, reader = await stage.trusted()
    stage.blue.restart(stage.red.data.copy())
    moved = await stage.member(stage.blue)
    await moved.audit()
    await stage.write(moved)
    await stage.read(reader)


async def dump_names_the_new_server(stage: FakeStage) -> None:
    """As before, but a dump was restored whose audit row names the new server already."""
    stage.postgres.audits[NAMESPACE].server = stage.blue.identity
    dump = stage.postgres.image()
    _, reader = await stage.trusted()
    assert stage.postgres.restore(dump)
    moved = await stage.member(stage.blue)
    await moved.audit()
    await stage.write(moved)
    await stage.read(reader)


async def dump_is_restored_under_a_live_fence(stage: FakeStage) -> None:
    """A dump brings back an audit row without the live fence; a publish is lost."""
    dump = stage.postgres.image()
    one, two = await stage.trusted()
    assert stage.postgres.restore(dump)
    await stage.lost_write(two)
    await stage.read(one)


async def short_audit_begins_after_a_restore(stage: FakeStage) -> None:
    """As before, and an audit of a shorter fence, on a promoted copy, has announced itself in the new epoch."""
    dump = stage.postgres.image()
    one, two = await stage.trusted()
    stage.blue.restart(stage.red.data.copy())
    assert stage.postgres.restore(dump)
    short = await stage.member(stage.blue, fence_ttl_ms=200)
    await short.audit()
    await stage.lost_write(two)
    await stage.read(one)


async def dump_is_restored_before_a_cycle_completes(stage: FakeStage) -> None:
    """A dump is restored between the last two steps of a cycle, whose number means another cycle then."""
    one, two = await stage.trusted()
    dump = stage.postgres.image()
    await one.audit()
    await one.audit()
    async with stage.held(one.postgres.hold("complete"), one.audit()):
        assert stage.postgres.restore(dump)
        write = await stage.unproven_write(two)
    await asyncio.sleep(0.1)
    await stage.read(one)
    await write
    await stage.read(one)


async def session_is_replaced_in_a_promotion(stage: FakeStage) -> None:
    """No fence lives; a standby that lags is promoted between a cycle's announcement and its snapshot."""
    one, two = await stage.trusted()
    await asyncio.sleep(1.1 * stage.fence_s)
    lagging = stage.postgres.image()
    async with stage.held(one.postgres.hold("snapshot"), one.audit()):
        stage.postgres.promote(lagging)
    await one.cache.drop(KEY)
    await stage.read(one)
    await stage.read(two)
    await stage.lost_write(two)
    await stage.read(one)

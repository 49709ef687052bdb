"""Schedules of audits. In each, exactly one guard prevents a stale read, and its mutant allows it.

Each is named after what happens.
"""

import asyncio

from app.cache.write_through import Status
from tests.harness.script import Gate
from tests.schedules.on_fakes import FakeStage
from tests.schedules.stage import Member, Stage, trusted_again


async def audit_sets_its_fence_late(stage: Stage[Member]) -> None:
    """A cycle is held up before it sets its fence; before that, a write that settled by the announced time is acknowledged."""
    one, two = await stage.trusted()
    await asyncio.sleep(0.9 * stage.fence_s)
    async with stage.held(one.redis.hold("trust"), one.audit()):
        write = stage.spawn(stage.lost_write(two))
        await asyncio.sleep(0.9 * stage.fence_s)
    await write
    await stage.read(one)


async def lease_outlives_the_audit(stage: Stage[Member]) -> None:
    """A reader loads; a writer commits and its publish is lost; an audit ends; the reader fills."""
    one, two = await stage.emptied()
    async with stage.held(one.redis.hold("publish"), stage.read(one)):
        write = await stage.unproven_write(two)
        await two.audit()
        await write
    await stage.read(two)


async def shorter_fence_is_announced(stage: Stage[Member]) -> None:
    """A process with a shorter fence announces and stops; a writer settles; the longer fence still lives."""
    one, two = await stage.trusted()
    short = await stage.member(fence_ttl_ms=200)
    snapshot = short.postgres.hold("snapshot")
    stage.spawn(short.audit())
    await snapshot.arrival()
    await stage.lost_write(two)
    await stage.read(one)


async def commit_between_snapshot_and_announcement(stage: Stage[Member]) -> None:
    """A writer commits, its publish is lost, and it reads the audit row just before a cycle is announced."""
    one, two = await stage.trusted()
    await _unproven_write_at(stage, one.postgres.hold("announce"), one, two)


async def publish_arrives_after_a_clean_start(stage: Stage[Member]) -> None:
    """Two writers publish in the other order, and between them the watermark is lost and an audit starts clean."""
    one, two = await stage.trusted()
    three = await stage.member()
    async with stage.held(one.redis.hold("publish"), stage.write(one)):
        await stage.write(two)
        await stage.forget_watermark()
        await trusted_again(three)
    await stage.read(three)


async def fill_arrives_after_a_clean_start(stage: Stage[Member]) -> None:
    """A reader leases and loads; a writer commits; the watermark is lost and an audit starts clean; the reader fills."""
    one, two = await stage.emptied()
    async with stage.held(one.redis.hold("publish"), stage.read(one)):
        write = await stage.unproven_write(two)
        await stage.forget_watermark()
        await trusted_again(two)
        await write
    await stage.read(two)


async def reader_misses_without_a_watermark(stage: Stage[Member]) -> None:
    """The watermark is lost; a reader loads; a writer commits; an audit starts clean; a fill of the reader would come then."""
    one, two = await stage.emptied()
    await stage.forget_watermark()
    fill = one.redis.hold("publish")
    reader = stage.spawn(stage.read(one))
    await asyncio.sleep(0.1)  # a reader without a lease has its answer by now, and publishes nothing
    write = await stage.unproven_write(two)
    await trusted_again(two)
    await write
    fill.open()
    await reader
    await stage.read(two)


async def cycle_is_held_up_before_it_compares(stage: Stage[Member]) -> None:
    """A publish is lost; an audit is announced after the commit, and has not looked at the slot yet."""
    one, two = await stage.trusted()
    write = await stage.unproven_write(two)
    async with stage.held(one.redis.hold("verify"), one.audit()):
        await asyncio.sleep(0.1)
        await stage.read(one)
    await write


async def transaction_open_across_an_audit(stage: FakeStage) -> None:
    """A transaction is open while an audit takes its snapshot; it commits, and its publish is lost."""
    # Only on the fakes: the gates before and after a real transaction cannot hold it open.
    one, two = await stage.trusted()
    commit = two.postgres.hold("commit")
    write = stage.spawn(stage.lost_write(two))
    await commit.arrival()
    await trusted_again(one)
    commit.open()
    await asyncio.sleep(0.1)
    await trusted_again(one)
    await write
    await stage.read(one)


async def audit_under_way_during_a_commit(stage: Stage[Member]) -> None:
    """A publish is lost; an audit that took its snapshot before the commit completes after it."""
    one, two = await stage.trusted()
    await _unproven_write_at(stage, one.redis.hold("trust"), one, two)


async def _unproven_write_at(stage: Stage[Member], gate: Gate, auditor: Member, writer: Member) -> None:
    async with stage.held(gate, auditor.audit()):
        write = await stage.unproven_write(writer)
    await asyncio.sleep(0.1)
    await stage.read(auditor)
    await write


async def cycle_outlasts_its_fence(stage: Stage[Member]) -> None:
    """A cycle that starts clean takes longer than its fence may live; the next one goes on, and repairs what changed since."""
    one, two = await stage.trusted()
    await stage.forget_watermark()
    async with stage.held(one.redis.hold("trust"), one.audit()):
        await asyncio.sleep(1.1 * stage.fence_s)
    await stage.finds(two, 1, Status.BYPASS)
    write = await stage.unproven_write(two)
    cycle = await one.audit()
    assert cycle is not None
    if (cycle.clean, cycle.repairs.checked) != (False, 1):
        stage.unmet.append(f"{cycle} instead of one row compared, and no clean start")
    await write
    await stage.read(two)

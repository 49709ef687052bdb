"""Schedules with two primaries, two databases, or two namespaces of one table.

They run only on the fakes, because a stage has one PostgreSQL. ``tests/outages/scenarios`` runs them on real servers.
"""

import asyncio
from contextlib import suppress

from app.cache.errors import SourceUnavailable
from tests.schedules.on_fakes import FakeMember, FakeStage
from tests.schedules.stage import KEY, trusted_again

NEWER = "products.2"


async def old_primary_vouches_for_its_history(stage: FakeStage) -> None:
    """A standby is promoted while the old primary goes on; before the new one's first audit, somebody writes there."""
    old, _ = await stage.trusted()
    new = await stage.member(postgres=stage.postgres.fork())
    _go_on(stage, old)
    await stage.write(new)
    await stage.read(new)


def _go_on(stage: FakeStage, old: FakeMember) -> None:
    """Let a process of the old primary audit and read until the schedule ends."""
    stage.spawn(old.audit_on())
    stage.spawn(old.read_on())


async def old_primary_is_told(stage: FakeStage) -> None:
    """A standby is promoted and audited while the old primary goes on: the old one's auditor and readers find its mark."""
    old, _ = await stage.trusted()
    new = await stage.member(postgres=stage.postgres.fork())
    await new.audit()
    await old.audit()
    await stage.write(new)
    with suppress(SourceUnavailable):
        await stage.read(old)


async def old_auditor_meets_half_a_mark(stage: FakeStage) -> None:
    """The new primary's auditor has sent one of its two commands to end the old trust; the old one's auditor runs meanwhile.

    A process of the new primary has not read its epoch since the promotion.
    """
    old, late = await stage.trusted()
    new = await stage.member(postgres=stage.postgres.fork())
    late.move(new.database)
    async with stage.held(new.redis.hold("distrust, second command"), new.audit()):
        await asyncio.sleep(0.25 * stage.fence_s)
        await old.audit()
    await stage.lost_write(new)
    await stage.read(late)


async def answer_from_the_old_primary_comes_late(stage: FakeStage) -> None:
    """A process queries the old primary, then the new one; the first answer arrives after the second one."""
    old, moved = await stage.trusted()
    new = await stage.member(postgres=stage.postgres.fork())
    reply = moved.postgres.hold_reply("load")
    await moved.cache.drop(KEY)
    early = stage.spawn(moved.read_unrecorded())
    await reply.arrival()
    moved.move(new.database)
    await moved.cache.ping()
    _go_on(stage, old)
    await stage.write(new)
    reply.open()
    await early
    await stage.read(moved)


async def two_databases_share_a_server(stage: FakeStage) -> None:
    """Another database's instances use the same namespace of the same Redis, and audit it in turns."""
    one, _ = await stage.trusted()
    other = await stage.member(postgres=type(stage.postgres)(stage.loop.time, "7000000000000000002"))
    other.database.know_history()
    for _ in range(3):
        await trusted_again(other)
        await stage.write(other)
        for _ in range(3):
            await stage.read(one)
        await trusted_again(one)
        await stage.write(one)
        for _ in range(3):
            await stage.read(other)


async def another_namespace_is_used(stage: FakeStage) -> None:
    """Instances with another namespace join the fleet, audit and fill; then somebody writes in the first one."""
    _, two = await stage.trusted()
    newcomer = await stage.member(stage.blue, namespace=NEWER)
    await newcomer.audit()
    await newcomer.audit()
    await stage.read(newcomer)
    await stage.write(two)
    await stage.read(newcomer)


async def two_namespaces_announce_at_once(stage: FakeStage) -> None:
    """No fence lives; audits of two namespaces announce in statements that overlap, so that neither sees the other."""
    one, two = await stage.trusted()
    newcomer = await stage.member(stage.blue, namespace=NEWER)
    await asyncio.sleep(1.1 * stage.fence_s)
    stage.postgres.overlapping = {NEWER}
    await one.audit()
    for _ in range(2):
        await newcomer.audit()
    await stage.read(newcomer)
    await stage.write(two)
    await stage.read(newcomer)


async def newcomer_settles(stage: FakeStage) -> None:
    """An instance with another namespace writes: its publish reaches no slot of the namespace that is trusted."""
    one, _ = await stage.trusted()
    await stage.write(await stage.member(stage.blue, namespace=NEWER))
    await stage.read(one)

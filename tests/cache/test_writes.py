"""Writes on real servers that no schedule plays: leases, failures, slots that do not count, and how long slots live."""

import asyncio
from dataclasses import replace

import pytest
import redis.asyncio

from app.cache.policies import WritePolicy
from app.cache.ports import Absent, Outcome, Publication, State, Value
from app.cache.redis.store import Names, RedisLinks, RedisStore
from app.cache.write_through import Peeked, Status
from app.products.commands import Put, set_stock
from app.products.errors import PreconditionFailed
from app.products.product import Precondition
from app.products.transaction import Committed
from tests.cache.conftest import Slots
from tests.cache.rig import LONG_FENCE, LOST, Process, draft, open_process
from tests.harness.script import Gate
from tests.limits import lifetimes, redis_options

KEY = "mug"


@pytest.mark.guarantee("R3")
async def test_writer_fills_a_slot_that_was_emptied_under_it(mug: Process, other: Process, slots: Slots) -> None:
    """An eviction, or an audit between a commit and its publish, costs the writer's process a load, and no reader."""
    await slots.evict(KEY)
    assert (await mug.write(set_stock(KEY, 1))).proven  # warm: it took no lease, and its publish found nothing
    await mug.cache.aclose()
    assert mug.stats.refills == 1
    read = await other.cache.read(KEY)
    assert (read.state.version, read.status) == (2, Status.HIT)


@pytest.mark.guarantee("R2")
async def test_writer_holds_its_lease_before_commit(mug: Process, other: Process) -> None:
    """A write onto an empty slot populates it, and a reader who comes between commit and publish fills nothing."""
    await mug.cache.drop(KEY)
    committed = mug.source.calls.hold_reply("commit")
    writing = asyncio.create_task(mug.write(set_stock(KEY, 1)))
    await committed.arrival()
    between = await other.cache.read(KEY)
    assert (between.state.version, between.status) == (2, Status.MISS)
    committed.open()
    assert (await writing).proven
    read = await other.cache.read(KEY)
    assert (read.state.version, read.status) == (2, Status.HIT)


@pytest.mark.parametrize("after", [False, True], ids=["before effect", "reply lost"])
async def test_lease_fails(mug: Process, *, after: bool) -> None:
    """A writer whose lease got no answer writes all the same, and settles: asking again could cost a second deadline."""
    await mug.cache.drop(KEY)
    mug.store.calls.fail("lease", LOST, after=after)
    published = len(mug.store.publications)
    assert not (await mug.write(set_stock(KEY, 1))).proven
    assert len(mug.store.publications) == published
    assert await mug.version(KEY) == 2


@pytest.mark.parametrize("verb", ["lease", "publish"])
@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), ZeroDivisionError()], ids=["event loop", "defect"])
async def test_store_fails_in_a_way_that_nobody_listed(mug: Process, verb: str, error: Exception) -> None:
    """G2, G3: a committed write is never answered with an error of the store, whatever that is; it settles."""
    await mug.cache.drop(KEY)
    mug.store.calls.fail(verb, error)
    acknowledgement = await mug.write(set_stock(KEY, 1))
    assert not acknowledgement.proven
    assert mug.stats.unexpected == 1
    assert (await mug.cache.read(KEY)).state.version == 2


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("empty", [False, True], ids=["filled slot", "empty slot"])
async def test_transaction_fails(mug: Process, slots: Slots, *, empty: bool) -> None:
    """G2: a failed transaction leaves the slot as it was; the lease that was taken for it is given back."""
    if empty:
        await mug.cache.drop(KEY)
    before = await slots.get(KEY)
    published = len(mug.store.publications)

    async def fail() -> Committed:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await mug.cache.write([KEY], fail)
    assert await slots.get(KEY) == before
    assert len(mug.store.publications) == published
    assert mug.store.calls.count()["release"] == (1 if empty else 0)


async def test_refused_write(mug: Process, slots: Slots) -> None:
    """A refusal commits nothing, publishes nothing, and gives its lease back."""
    await mug.cache.drop(KEY)
    with pytest.raises(PreconditionFailed):
        await mug.products.write(set_stock(KEY, 1, Precondition(versions=frozenset({"77"}))))
    assert await slots.get(KEY) is None
    assert await mug.version(KEY) == 1


async def test_cancelled_write_gives_its_lease_back(mug: Process, slots: Slots) -> None:
    """A transaction that is cancelled before its commit leaves no lease behind."""
    await mug.cache.drop(KEY)
    gate = Gate()

    async def wait() -> Committed:
        await gate.enter()
        return Committed((), ())

    writing = asyncio.create_task(mug.cache.write([KEY], wait))
    await gate.arrival()
    assert await slots.leased(KEY)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert await slots.get(KEY) is None


@pytest.mark.guarantee("R1")
async def test_slot_of_another_epoch(mug: Process, slots: Slots) -> None:
    """An entry from another stretch of history is not believed, however new it looks, and the next publish replaces it."""
    own = await slots.get(KEY)
    assert own is not None
    foreign = own[:1] + b"f" * 16 + b"9" * 19 + own[36:]
    await slots.set(KEY, foreign)
    read = await mug.cache.read(KEY)
    assert (read.state.version, read.status) == (1, Status.MISS)
    assert await slots.get(KEY) == foreign
    assert (await mug.write(set_stock(KEY, 1))).proven
    assert (await mug.cache.read(KEY)).status is Status.HIT


@pytest.mark.guarantee("R1")
async def test_slot_of_another_key(mug: Process, slots: Slots) -> None:
    """An entry counts for the id that stands in it, not for the place where it was found."""
    await mug.write(Put(draft("jug", 5)))
    await slots.set(KEY, await slots.get("jug") or b"")
    read = await mug.cache.read(KEY)
    assert isinstance(read.state, Value)
    assert b'"id":"mug"' in read.state.payload
    assert read.status is Status.MISS
    await slots.evict(KEY)  # or the inspection after the test finds it


@pytest.mark.guarantee("G6")
async def test_lives_are_shortened_by_chance_within_bounds(redis_url: str, namespace: str, process: Process) -> None:
    """A life lies between (1 - jitter) and the whole of its setting; absent ids live by their own; lives differ."""
    await process.write(Put(draft(KEY)))
    epoch = (await process.cache.read(KEY)).state.epoch
    lives = lifetimes(slot_ttl_s=1_000, absent_ttl_s=100, ttl_jitter_percent=20, lease_ttl_ms=9_000)
    links = RedisLinks(redis_options(redis_url))
    store = RedisStore(links, namespace, lives)
    names = Names(namespace)
    await links.start()
    client = redis.asyncio.Redis.from_url(redis_url)
    try:
        values = [Value(f"v{i}", epoch, 1, b"{}") for i in range(60)]
        unknown = [Absent(f"a{i}", epoch, 0) for i in range(60)]
        deleted = [Absent(f"d{i}", epoch, 3) for i in range(60)]
        states: list[State] = [*values, *unknown, *deleted]
        tokens = await store.lease([state.key for state in states])
        assert 0 < await client.pttl(names.prefix + "v0") <= 9_000
        published = await store.publish([Publication(state, tokens[state.key]) for state in states])
        assert set(published.outcomes) == {Outcome.STORED}
        for letter, whole_ms in (("v", 1_000_000), ("a", 100_000), ("d", 1_000_000)):
            left = [await client.pttl(f"{names.prefix}{letter}{number}") for number in range(60)]
            assert max(left) <= whole_ms
            assert min(left) > whole_ms * 0.8 - 30_000
            assert max(left) - min(left) > whole_ms * 0.05
    finally:
        await client.unlink(*(names.prefix + state.key for state in states))  # or the inspection after the test finds them
        await client.aclose()
        await links.close()


@pytest.mark.parametrize("policy", [WritePolicy.UPDATE, WritePolicy.ASIDE])
async def test_write_that_does_not_refill(mug: Process, slots: Slots, policy: WritePolicy) -> None:
    """An emptied slot stays empty: only ``through`` loads for readers who may never come."""
    await slots.evict(KEY)
    assert (await mug.write(set_stock(KEY, 1), policy)).proven
    await mug.cache.aclose()
    assert mug.stats.refills == 0
    assert await slots.get(KEY) is None


async def test_write_around_that_changes_nothing_and_has_no_rows(mug: Process) -> None:
    """A write of no row needs no wait under any policy; one that found its row unchanged waits for the audit (R10)."""

    async def refused() -> Committed:
        return Committed((), ())

    _, acknowledgement = await mug.cache.write([KEY], refused, policy=WritePolicy.AROUND)
    assert acknowledgement.proven
    assert not (await mug.write(Put(draft(KEY)), WritePolicy.AROUND)).proven
    await mug.trust()


async def test_cache_that_is_switched_off(redis_url: str, database_url: str, namespace: str, slots: Slots) -> None:
    """Reads go to PostgreSQL and say so; writes empty their slots, so that other instances never see the past."""
    async with (
        open_process(redis_url, database_url, namespace) as on,
        open_process(redis_url, database_url, namespace, config=replace(LONG_FENCE, bypassed=True)) as off,
    ):
        await on.trust()
        await on.write(Put(draft(KEY)))
        read = await off.cache.read(KEY)
        assert (read.state.version, read.status, read.detail) == (1, Status.BYPASS, "switched-off")
        peeked: list[Peeked] = []
        off.cache.peek(KEY, peeked.append)
        assert peeked == [None]
        assert (await off.cache.read(KEY, refresh=True)).status is Status.BYPASS
        assert (await off.write(set_stock(KEY, 1), WritePolicy.THROUGH)).proven
        assert await slots.get(KEY) is None
        assert off.store.calls.count() == {"publish": 1}
        assert (await on.cache.read(KEY)).state.version == 2

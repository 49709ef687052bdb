"""Leases that nobody will use are given back, also if the store did not answer meanwhile (R2).

Leases live for a minute here. So if a slot is filled within a test, its lease was given back.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.cache.errors import LeasesInDoubt, NotConnected
from app.cache.policies import WritePolicy
from app.cache.redis.store import RedisLinks, RedisStore
from app.cache.round_trips import Leases
from app.cache.slot import INCARNATION_WIDTH, LEASE
from app.cache.write_through import Status
from app.private_servers import RedisServer
from app.products.commands import Create, Put, set_stock
from app.products.transaction import Committed
from tests.cache.conftest import Slots
from tests.cache.rig import LOST, SHORT_FENCE, Process, cold_reads, draft, open_process, until
from tests.limits import lifetimes, redis_options

KEY = "mug"


async def _is_hit(process: Process) -> bool:
    return (await process.cache.read(KEY)).status is Status.HIT


@asynccontextmanager
async def _store_on(url: str, namespace: str) -> AsyncIterator[tuple[RedisStore, RedisLinks]]:
    """A store on links that nobody has started."""
    links = RedisLinks(redis_options(url, timeout_ms=250, connect_timeout_ms=2_000))
    try:
        yield RedisStore(links, namespace, lifetimes(lease_ttl_ms=60_000)), links
    finally:
        await links.close()


async def _is_free(slots: Slots) -> bool:
    return await slots.get(KEY) is None


def _release(process: Process, key: str, token: str) -> None:
    process.cache.release(Leases({key: token}, 0.0, WritePolicy.THROUGH))


@pytest.mark.parametrize("failed_releases", [1, 2])
async def test_release_without_an_answer(mug: Process, slots: Slots, failed_releases: int) -> None:
    """Neither the fill nor the release of its lease is answered; the lease is given back behind a later read."""
    await mug.cache.drop(KEY)
    mug.store.calls.fail("publish", LOST)
    for _ in range(failed_releases):
        mug.store.calls.fail("release", LOST)
    assert (await mug.cache.read(KEY)).status is Status.MISS
    for _ in range(failed_releases):
        await until(lambda: slots.leased(KEY))
        assert (await mug.cache.read(KEY)).status is Status.MISS
    await until(lambda: _is_hit(mug))
    assert mug.store.calls.count()["release"] == failed_releases + 1


async def test_release_of_a_write_without_an_answer(mug: Process, slots: Slots) -> None:
    """A writer's lease is given back in the same way."""
    await mug.cache.drop(KEY)
    mug.store.calls.fail("publish", LOST)
    mug.store.calls.fail("release", LOST)
    assert not (await mug.write(set_stock(KEY, 1))).proven
    assert await slots.leased(KEY)
    await until(lambda: _is_hit(mug))


async def test_releases_of_one_slot_together(mug: Process) -> None:
    """Two leases of one slot are given back in one round trip: the one that the slot holds goes, whichever comes first."""
    for token_is_last in (False, True):
        await mug.cache.drop(KEY)
        [token] = (await mug.slots.lease([KEY])).values()
        held = mug.store.calls.hold("release")
        _release(mug, "another", "f" * 32)
        await held.arrival()
        for given in ["f" * 32, token] if token_is_last else [token, "f" * 32]:
            _release(mug, KEY, given)
        held.open()
        await until(lambda: _is_hit(mug))


async def test_write_of_a_deposed_process(mug: Process, slots: Slots) -> None:
    """A write whose process finds that another primary has taken over publishes nothing, and gives its lease back."""
    await mug.cache.drop(KEY)

    async def commit() -> Committed:
        committed = await mug.commit(set_stock(KEY, 1))
        system, timeline, period = committed.states[0].epoch.split(".")
        fence = (await slots.peek(slots.names.fence) or b"").decode()
        newer = f"{system}.{int(timeline, 16) + 1:08x}.{period}"
        await slots.client.set(slots.names.fence, fence.replace(committed.states[0].epoch, newer))
        peeked: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        mug.cache.peek("jug", peeked.set_result)
        await peeked
        return committed

    acknowledgement = (await mug.cache.write([KEY], commit))[1]
    assert not acknowledgement.proven
    assert [publication.state.version for publication in mug.store.publications if publication.state.key == KEY] == [1]
    await until(lambda: _is_free(slots))


async def test_writer_who_leaves_before_his_publish_is_sent(mug: Process, slots: Slots) -> None:
    """His lease is given back."""
    await mug.cache.drop(KEY)
    gate = mug.store.calls.hold("publish")
    first = asyncio.create_task(mug.write(Put(draft("jug"))))
    await gate.arrival()
    leaver = asyncio.create_task(mug.write(set_stock(KEY, 1)))
    await until(lambda: slots.leased(KEY))
    await until(lambda: mug.source.calls.answered["commit"] == 3)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    gate.open()
    await first
    assert leaver.cancelled()
    await until(lambda: _is_free(slots))


async def test_server_that_refuses_writes(private_redis: RedisServer, database_url: str, namespace: str) -> None:
    """A release that Redis refuses ends no connection, and so takes no hits away."""
    async with open_process(private_redis.url, database_url, namespace) as process:
        await process.trust()
        assert (await process.write(Put(draft(KEY)))).proven
        slots = Slots(private_redis.url, namespace)
        await slots.lease("jug")
        await slots.client.config_set("min-replicas-to-write", 1)
        process.cache.release(Leases({"jug": (await slots.get("jug") or b"")[1:].decode()}, 0.0, WritePolicy.THROUGH))
        await until(lambda: process.store.calls.answered["release"] == 1)
        assert await _is_hit(process)
        assert await slots.leased("jug")
        assert process.redis.failures == 0
        await slots.client.config_set("min-replicas-to-write", 0)
        await slots.client.aclose()


@pytest.fixture
async def served(private_redis: RedisServer, database_url: str, namespace: str) -> AsyncIterator[Process]:
    """A process with audits in its background, and a product that it serves as a hit."""
    async with open_process(
        private_redis.url, database_url, namespace, config=SHORT_FENCE, redis_timeout_ms=250, audited=True
    ) as process:
        await process.products.write(Create(draft(KEY)))
        # Audits that compare the new row would delete its lease.
        audits = process.stats.audits + 2
        await until(lambda: process.stats.audits >= audits)
        await until(lambda: _is_hit(process))
        yield process


@pytest.mark.parametrize("with_read", [False, True], ids=["lease", "read"])
async def test_lease_that_is_taken_late(
    served: Process, private_redis: RedisServer, namespace: str, *, with_read: bool
) -> None:
    """Redis hangs when a lease is asked for, and takes it when it goes on. The caller has left by then."""
    if with_read:
        await cold_reads(served)
    await served.cache.drop(KEY)
    private_redis.pause()
    if with_read:
        assert (await served.cache.read(KEY)).status is Status.BYPASS
    else:
        assert (await served.cache.lease([KEY])).tokens is None
    private_redis.resume()
    slots = Slots(private_redis.url, namespace)
    await until(lambda: slots.leased(KEY))
    await slots.client.aclose()
    await until(lambda: _is_hit(served))


async def test_leases_in_doubt(private_redis: RedisServer, namespace: str) -> None:
    """A lease or a read that was sent and not answered names the leases that it may have taken; one that was not sent, none."""
    async with _store_on(private_redis.url, namespace) as (store, links):
        await links.start()
        private_redis.pause()
        with pytest.raises(LeasesInDoubt) as read:
            await store.read([KEY, "jug"], [KEY])
        assert list(read.value.tokens) == [KEY]
        with pytest.raises(LeasesInDoubt) as lease:
            await store.lease([KEY, "jug"])
        assert list(lease.value.tokens) == [KEY, "jug"]
        with pytest.raises(NotConnected):
            await store.lease([KEY])
        private_redis.resume()


async def test_links_that_come_back_one_after_another(mug: Process, redis_url: str, namespace: str, slots: Slots) -> None:
    """With a connection for reads alone, a read takes no lease that nobody could fill, and leases are given back."""
    await mug.cache.drop(KEY)
    [token] = (await mug.slots.lease(["jug"])).values()
    assert await slots.get("jug") == LEASE + token.encode()
    async with _store_on(redis_url, namespace) as (store, links):
        await links.reads.start()
        assert (await store.read([KEY], [KEY])).leases is None
        assert await store.lease([KEY]) == {}
        assert await slots.get(KEY) is None
        await store.release({"jug": token[INCARNATION_WIDTH:]})
        assert await slots.get("jug") is None
        await links.publishes.start()
        assert list((await store.read([KEY], [KEY])).leases or {}) == [KEY]

"""A cache whose partitions are on the nodes of a cluster: reads, writes, moves, copies that are left, a node that hangs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from app.cache import Session, Status, StoreUnavailable
from app.cache.partitions import Partitions
from app.cache.ports import Outcome, Publication, Value
from app.cache.redis.nodes import RedisNode, RedisNodes
from app.private_servers import RedisServer
from tests.cluster.shop import KEYS, LIMITS, PARTITIONS, Shop, moved_back, open_shop, until
from tests.harness.redis_cluster import RedisCluster
from tests.limits import redis_options

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

KEY = KEYS[0]
_LINKS = 4
"""Connections to each node: for reads, leases, publishes and audits."""
LONG = replace(LIMITS, fence_ttl_ms=30_000, fence_ttl_max_ms=30_000)
"""Fences that outlive a test."""


@pytest.fixture
async def shop(redis_cluster: RedisCluster, database_url: str, namespace: str) -> AsyncIterator[Shop]:
    async with open_shop(redis_cluster.url, database_url, namespace) as shop:
        await shop.until_hits()
        yield shop


async def other_than(cluster: RedisCluster, slot: int) -> RedisServer:
    """Return a node that has not this slot."""
    owner = await cluster.owner(slot)
    return next(server for server in cluster.servers if server is not owner)


async def redirections(cluster: RedisCluster) -> int:
    """Return how often the nodes refused a command so far."""
    count = 0
    for server in cluster.servers:
        found = await cluster.ask(server, "INFO", "errorstats")
        count += sum(found.get(f"errorstat_{name}", {}).get("count", 0) for name in ("MOVED", "ASK", "TRYAGAIN", "CROSSSLOT"))
    return count


async def questions(cluster: RedisCluster) -> int:
    """Return how often the nodes were asked for the map so far."""
    count = 0
    for server in cluster.servers:
        found = await cluster.ask(server, "INFO", "commandstats")
        count += found.get("cmdstat_cluster|slots", {}).get("calls", 0)
    return count


async def clients(server: RedisServer, cluster: RedisCluster) -> int:
    """Return the number of connections to a node, but for the one that asks."""
    return int((await cluster.ask(server, "INFO", "clients"))["connected_clients"]) - 1


@pytest.mark.guarantee("G1", "G7")
async def test_reads_and_writes_over_all_nodes(shop: Shop, redis_cluster: RedisCluster) -> None:
    """Products of every node are hits in both processes, and a write is proven wherever its product is."""
    refused = await redirections(redis_cluster)
    owners = {(await redis_cluster.owner(shop.slot(key))).port for key in KEYS[:40]}
    assert len(owners) == len(redis_cluster.servers)
    for number, key in enumerate(KEYS[:40]):
        version = await shop.write(key, 1_000 + number)
        assert await shop.versions(key) == [(version, Status.HIT)] * 2
    stats = shop.one.stats[shop.entity.namespace]
    assert (stats.settles, stats.publish_failures, stats.unexpected) == (0, 0, 0)
    assert await shop.both[0].protocol.proven()
    assert await redirections(redis_cluster) == refused


@pytest.mark.guarantee("G1")
async def test_write_over_several_partitions(shop: Shop) -> None:
    """A transaction over products of many partitions is published in each, and is proven if it is proven in all."""
    keys = KEYS[:30]

    async def change(db: Session) -> None:
        await db.rows("UPDATE products SET price_cents = 7 WHERE id = ANY (%(ids)s)", {"ids": keys})

    states = await shop.one[shop.entity].write(keys, change)
    reads = await shop.both[1].read_many(keys)
    assert [(read.state, read.status) for read in reads] == [(states[key], Status.HIT) for key in keys]
    assert shop.one.stats[shop.entity.namespace].settles == 0


@pytest.mark.guarantee("G1", "R6")
async def test_partition_that_moves_onto_a_copy_that_was_left(shop: Shop, redis_cluster: RedisCluster) -> None:
    """A move that broke off left version 1 on another node. The watermark and the fence, moved later, do not vouch for it."""
    slot, names = shop.slot(KEY), shop.names(KEY)
    target = await other_than(redis_cluster, slot)
    async with moved_back(redis_cluster, slot):
        source = await redis_cluster.begin_move(slot, target)
        await redis_cluster.carry(source, target, [f"{names.prefix}{KEY}".encode()], copy=True)
        await redis_cluster.break_off(slot, source, target)
        await shop.until_hits(KEY)
        version = await shop.write(KEY, 2)
        await redis_cluster.ask(source, "DEL", names.prefix + KEY)  # as an eviction does
        await redis_cluster.move(slot, target)
        for _ in range(50):
            assert {found for found, _ in await shop.versions(KEY)} == {version}
        await shop.until_hits(KEY)
        assert await shop.versions(KEY) == [(version, Status.HIT)] * 2


@pytest.mark.guarantee("G1", "R1")
@pytest.mark.parametrize("back", [RedisCluster.move, RedisCluster.move_at_once])
async def test_partition_that_comes_back_within_the_life_of_its_fence(
    redis_cluster: RedisCluster,
    database_url: str,
    namespace: str,
    back: Callable[[RedisCluster, int, RedisServer], Awaitable[None]],
) -> None:
    """The fence names the node again, and the slot is a copy that was left elsewhere: the node's epoch tells."""
    async with open_shop(redis_cluster.url, database_url, namespace, limits=LONG) as shop:
        await shop.until_hits(KEY)
        slot, names = shop.slot(KEY), shop.names(KEY)
        target = await other_than(redis_cluster, slot)
        async with moved_back(redis_cluster, slot):
            source = await redis_cluster.begin_move(slot, target)
            await redis_cluster.carry(source, target, [f"{names.prefix}{KEY}".encode()], copy=True)
            await redis_cluster.break_off(slot, source, target)
            version = await shop.write(KEY, 2)
            await redis_cluster.ask(source, "DEL", names.prefix + KEY)
            await redis_cluster.move(slot, target)
            await back(redis_cluster, slot, source)
            assert await redis_cluster.ask(source, "GET", names.fence) is not None
            assert await redis_cluster.ask(source, "GET", names.prefix + KEY) is not None
            for _ in range(50):
                assert {found for found, _ in await shop.versions(KEY)} == {version}


@pytest.mark.guarantee("G1", "R2")
async def test_lease_over_a_move(shop: Shop, redis_cluster: RedisCluster) -> None:
    """A lease moves with its partition, and fills nothing there: its holder may have loaded before a write that settled."""
    slot = shop.slot(KEY)
    target = await other_than(redis_cluster, slot)
    protocol = shop.one[shop.entity].protocol
    old = (await protocol.read(KEY)).state
    assert isinstance(old, Value)
    await protocol.drop(KEY)
    leases = await protocol.lease([KEY])
    assert leases.tokens
    there, *_ = [key for key in KEYS if await redis_cluster.owner(shop.slot(key)) is target]
    neighbour = (await protocol.read(there)).state
    beside = next(key for key in KEYS if key != KEY and shop.slot(key) == slot)  # a read of KEY itself could take a new lease
    trips = protocol._trips

    async def trusted() -> bool:
        with suppress(StoreUnavailable):  # the node's connections end when it is given keys
            return bool((await trips.read([beside])).epoch)
        return False

    async def connected() -> bool:  # to the node as it is now
        published = await trips.publish([Publication(neighbour)])
        return published is not None and published.proven

    async with moved_back(redis_cluster, slot):
        await redis_cluster.move(slot, target)
        await shop.hand.execute("UPDATE products SET price_cents = 9 WHERE id = %s", [KEY])
        await until(trusted)
        await until(connected)
        published = await trips.publish([Publication(old, leases.tokens[KEY])])
        assert published is not None
        assert published.proven
        # An audit may have met the lease before.
        assert published.outcomes[0] in (Outcome.LEASE_DELETED, Outcome.EMPTY)
        assert {found for found, _ in await shop.versions(KEY)} == {old.version + 1}


@pytest.mark.guarantee("G1", "G3")
async def test_partition_that_is_half_moved(shop: Shop, redis_cluster: RedisCluster) -> None:
    """While a slot is open, reads are right, writes are acknowledged, nothing is followed, and other partitions are hits.

    What the owner refuses then is no reason to ask for the map, which says what it said before.
    """
    slot, names = shop.slot(KEY), shop.names(KEY)
    target = await other_than(redis_cluster, slot)
    others = [key for key in KEYS if shop.slot(key) != slot]
    async with moved_back(redis_cluster, slot):
        source = await redis_cluster.begin_move(slot, target)
        await redis_cluster.carry(source, target, [f"{names.prefix}{KEY}".encode()])
        links = [link.failures for process in (shop.one, shop.two) for link in process.store.all]
        refused, asked = await redirections(redis_cluster), await questions(redis_cluster)
        version = await shop.write(KEY, 3)
        assert [found for found, _ in await shop.versions(KEY)] == [version] * 2
        assert {read.status for read in await shop.both[0].read_many(others)} == {Status.HIT}
        assert [link.failures for process in (shop.one, shop.two) for link in process.store.all] == links
        await until(lambda: _have_refused(redis_cluster, refused + 20))
        assert await questions(redis_cluster) == asked
        await redis_cluster.end_move(slot, source, target)
        assert [found for found, _ in await shop.versions(KEY)] == [version] * 2
        await shop.until_hits(KEY)


@pytest.mark.guarantee("G1", "G3", "R4")
async def test_node_that_hangs(shop: Shop, redis_cluster: RedisCluster) -> None:
    """Products of other nodes stay hits and their writes are proven; those of the node are read and written all the same."""
    lost = await redis_cluster.owner(shop.slot(KEY))
    elsewhere = [key for key in KEYS if await redis_cluster.owner(shop.slot(key)) is not lost][:20]
    stats = shop.one.stats[shop.entity.namespace]
    lost.pause()
    try:
        version = await shop.write(KEY, 4)
        assert [found for found, _ in await shop.versions(KEY)] == [version] * 2
        await shop.until_hits(*elsewhere)
        settles = stats.settles
        for number, key in enumerate(elsewhere):
            await shop.write(key, 500 + number)
        assert stats.settles == settles
        assert {read.status for read in await shop.both[1].read_many(elsewhere)} == {Status.HIT}
        assert await shop.write(KEY, 5) == version + 1
        assert stats.settles == settles + 1
    finally:
        lost.resume()
    await redis_cluster.until(redis_cluster.is_whole)
    await shop.until_hits(KEY, *elsewhere)


async def test_node_that_was_away_from_the_start(redis_cluster: RedisCluster, database_url: str, namespace: str) -> None:
    """A process starts while a node hangs, serves its products from PostgreSQL, and uses the node once it answers."""
    lost = redis_cluster.servers[1]
    lost.pause()
    try:
        async with open_shop(redis_cluster.url, database_url, namespace) as shop:
            assert len(await shop.both[0].read_many(KEYS)) == len(KEYS)
            assert not shop.one.store.up
            lost.resume()
            await shop.until_hits()
            await until(lambda: _is_up(shop))
    finally:
        lost.resume()


async def test_nodes_that_come_and_go(redis_cluster: RedisCluster, namespace: str) -> None:
    """A node is connected to while it has a partition: with the last one go its connections, and none is left over."""
    slot = Partitions(namespace, PARTITIONS).slots[0]
    home, other = await redis_cluster.owner(slot), await other_than(redis_cluster, slot)
    before = {server: await clients(server, redis_cluster) for server in (home, other)}
    tasks = asyncio.all_tasks()
    nodes = RedisNodes(redis_options(redis_cluster.url, retry_ms=10), {slot})
    await nodes.start()

    async def have_gone(first: RedisNode | None) -> bool:
        nodes.look_again()
        return nodes.owner(slot) is not first and nodes.up and not (first and any(link.up for link in first.all))

    async def have_clients(at_home: int, at_other: int) -> bool:
        present = [await clients(server, redis_cluster) - before[server] for server in (home, other)]
        return present == [at_home, at_other]

    async with moved_back(redis_cluster, slot):
        for target in (other, home, other, home):
            first = nodes.owner(slot)
            await redis_cluster.move(slot, target)
            await until(partial(have_gone, first))
            assert len(nodes.all) == _LINKS
            await until(partial(have_clients, *((_LINKS, 0) if target is home else (0, _LINKS))))
        assert nodes.failures == 0
        await nodes.close()
        await until(partial(have_clients, 0, 0))
    assert asyncio.all_tasks() == tasks


async def _have_refused(cluster: RedisCluster, number: int) -> bool:
    return await redirections(cluster) >= number


async def _is_up(shop: Shop) -> bool:
    return shop.one.store.up and shop.two.store.up

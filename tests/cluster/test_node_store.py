"""A batch of reads at one node: what its readers see of each other's leases, and what becomes of a lease without a reader."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio

from app.cache.errors import LeasesInDoubt, StoreUnavailable
from app.cache.filled_slots import FilledSlots
from app.cache.partition_ports import ReadRequest
from app.cache.partitions import Partitions
from app.cache.ports import Reading
from app.cache.redis.node_store import RedisNodeStore, names_of
from app.cache.redis.nodes import RedisNode
from app.cache.redis.refusals import Refusal
from app.cache.redis.store import SlotCommands
from app.cache.redis.waiting_calls import Commands, Reply
from app.cache.slot import LEASE
from app.cache.vacancies import Vacancies
from tests.limits import lifetimes, redis_options

KEY, OTHER = "mug", "jug"


@dataclass
class Rig:
    """A node's store, and what a test asks Redis by hand."""

    node: RedisNode
    partitions: Partitions
    client: Any

    def store(self, node: Any = None) -> RedisNodeStore:
        """Return the store on the connections of a node."""
        commands = [SlotCommands(names, lifetimes()) for names in names_of(self.partitions)]
        return RedisNodeStore(node or self.node, commands, lambda: None)

    def request(self, key: str, *lease: str) -> ReadRequest:
        """Return a read of one key."""
        return self.partitions.of(key), [key], lease

    async def slot(self, key: str) -> bytes | None:
        """Return what a key's slot has."""
        found: bytes | None = await self.client.get(names_of(self.partitions)[self.partitions.of(key)].prefix + key)
        return found


class RefusesReads:
    """A link to a node that refuses the first command of each call, and carries out the others."""

    def __init__(self, node: RedisNode) -> None:
        self.links, self.reads = self, self
        self.leases, self.publishes = node.links.leases, node.links.publishes
        self._reads = node.links.reads

    async def call_naming_server(self, commands: Commands) -> tuple[str, list[Reply]]:
        """Send commands, and put a refusal in place of the first reply."""
        server, [_, *replies] = await self._reads.call_naming_server(commands)
        return server, [Refusal("the test has moved the partition"), *replies]


class LosesReplies:
    """Links to a node that carries out each call, and whose replies are lost."""

    def __init__(self, node: RedisNode) -> None:
        self.links, self.reads, self.leases = self, self, self
        self.publishes = node.links.publishes
        self._reads = node.links.reads

    async def call_naming_server(self, commands: Commands) -> tuple[str, list[Reply]]:
        """Send commands, and lose the replies."""
        await self._reads.call_naming_server(commands)
        raise StoreUnavailable("the test lost the replies")


@pytest.fixture
async def rig(redis_url: str, namespace: str) -> AsyncIterator[Rig]:
    node = RedisNode(redis_options(redis_url))
    await node.start()
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    made = Rig(node, Partitions(namespace, 4), client)
    partitions = names_of(made.partitions)
    names = {key: partitions[made.partitions.of(key)] for key in (KEY, OTHER)}
    # A lease needs a watermark of the server that is asked.
    for one in names.values():
        await client.set(one.watermark, f"{node.links.reads.connection().server}|e:{'0' * 20}:{'0' * 16}")
    yield made
    await client.aclose()
    await node.close()


def slots(readings: Sequence[Any]) -> list[bytes | None]:
    """Return the slots of all readings."""
    return [raw for reading in readings if isinstance(reading, Reading) for raw in reading.slots]


async def test_readers_of_one_batch_see_the_slot_before_any_lease(rig: Rig) -> None:
    """Each of them finds it empty, so each can fill it; one has the lease, and the key counts once as empty."""
    readings = await rig.store().read([rig.request(KEY, KEY), rig.request(OTHER), rig.request(KEY)])
    assert slots(readings) == [None] * 3
    assert [list(one.leases or {}) for one in readings if isinstance(one, Reading)] == [[KEY], [], []]
    assert (await rig.slot(KEY) or b"").startswith(b"L")
    together, alone = Vacancies(FilledSlots(10)), Vacancies(FilledSlots(10))
    together.observe([KEY, OTHER, KEY], [KEY, OTHER, KEY], slots(readings))
    alone.observe([KEY, OTHER], [KEY, OTHER], [None, None])
    assert (together._others_share, together._filled_share) == (alone._others_share, alone._filled_share)


async def test_lease_of_a_read_that_is_refused_is_in_doubt(rig: Rig) -> None:
    """Its reader does not get it, and would keep everyone else from filling the slot until it expires."""
    refused, other = await rig.store(RefusesReads(rig.node)).read([rig.request(KEY, KEY), rig.request(OTHER, OTHER)])
    assert isinstance(refused, LeasesInDoubt)
    assert isinstance(other, Reading)
    assert list(other.leases or {}) == [OTHER]
    assert await rig.slot(KEY) == LEASE + refused.tokens[KEY].encode()
    assert await rig.slot(OTHER) == LEASE + (other.leases or {})[OTHER].encode()


async def test_leases_in_doubt(rig: Rig) -> None:
    """A call that takes leases and gets no answer names them."""
    store = rig.store(LosesReplies(rig.node))
    with pytest.raises(LeasesInDoubt) as read:
        await store.read([rig.request(KEY, KEY), rig.request(OTHER)])
    assert list(read.value.tokens) == [KEY]
    with pytest.raises(LeasesInDoubt) as lease:
        await store.lease([(rig.partitions.of(OTHER), [OTHER])])
    assert list(lease.value.tokens) == [OTHER]
    for key, tokens in ((KEY, read.value.tokens), (OTHER, lease.value.tokens)):
        assert (await rig.slot(key) or b"").startswith(LEASE)
        await rig.store().release([(rig.partitions.of(key), dict(tokens))])
        assert await rig.slot(key) is None


async def test_links_that_come_back_one_after_another(rig: Rig) -> None:
    """With a connection for reads alone, no lease is taken, and leases are given back."""
    [taken] = await rig.store().lease([(rig.partitions.of(OTHER), [OTHER])])
    assert isinstance(taken, dict)
    await rig.node.links.leases.close()
    await rig.node.links.publishes.close()
    store = rig.store()
    [reading] = await store.read([rig.request(KEY, KEY)])
    assert isinstance(reading, Reading)
    assert not reading.leases
    assert await store.lease([(rig.partitions.of(KEY), [KEY])]) == [{}]
    assert await rig.slot(KEY) is None
    await store.release([(rig.partitions.of(OTHER), taken)])
    assert await rig.slot(OTHER) is None

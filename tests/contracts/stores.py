"""What the store's contract needs besides the ports: ways to look into slots and to change them by hand."""

import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

import redis.asyncio
from typing_extensions import override

from app.cache import slot
from app.cache.errors import StoreUnavailable
from app.cache.partition_ports import NodeStore, ReadRequest
from app.cache.partitions import Partitions
from app.cache.ports import (
    Absent,
    AuditStore,
    Begun,
    Outcome,
    Publication,
    Published,
    Reading,
    Repairs,
    State,
    Store,
    Watermark,
)
from app.cache.redis.audit_store import RedisAuditStores
from app.cache.redis.node_store import RedisPartitions
from app.cache.redis.nodes import RedisNodes, at, map_of
from app.cache.redis.partition_audit import RedisPartitionAudits, RedisPartitionsAudit
from app.cache.redis.slot_map import URL_ADDRESS
from app.cache.redis.store import Names, RedisLinks, RedisStore
from tests.fakes import redis as fake
from tests.fakes.store import MemoryStore, open_audit_store
from tests.fakes.wire import Direct
from tests.limits import lifetimes, redis_options

Result = TypeVar("Result")

SLOT_TTL_S, ABSENT_TTL_S, LEASE_TTL_S = 100, 20, 5


class StoreBench(Protocol):
    """A store under test."""

    store: Store

    def open(self) -> AbstractAsyncContextManager[AuditStore]:
        """Open the store for an audit cycle."""

    async def raw(self, key: str) -> bytes | None:
        """Return a slot's bytes."""

    async def life_s(self, key: str) -> float:
        """Return a slot's remaining life in seconds."""

    async def put(self, key: str, raw: bytes) -> None:
        """Put something into a slot."""

    async def watermark(self) -> Watermark | None:
        """Return the watermark."""

    async def put_watermark(self, watermark: Watermark | None) -> None:
        """Set or remove the watermark."""

    async def fence(self) -> tuple[str, str, float, str] | None:
        """Return the fence's server and epoch, its remaining life in seconds, and its incarnation."""

    async def put_fence(self, server: str, epoch: str, life_s: float, incarnation: str) -> None:
        """Set the fence."""


async def in_slot(stored: StoreBench, state: State) -> bytes:
    """Return the bytes of a state in the watermark's incarnation."""
    watermark = await stored.watermark()
    assert watermark is not None
    return slot.encode(state, watermark.incarnation)


async def put(stored: StoreBench, state: State) -> bytes:
    """Put a state of the watermark's incarnation into its slot; return its bytes."""
    raw = await in_slot(stored, state)
    await stored.put(state.key, raw)
    return raw


class MemoryBench:
    """The fake."""

    def __init__(
        self, server: fake.RedisServer | None = None, namespace: str = "", kind: type[MemoryStore] = MemoryStore
    ) -> None:
        self.server = server or fake.RedisServer("red", time.monotonic)
        self._namespace = namespace
        lives = fake.Lifetimes(SLOT_TTL_S, ABSENT_TTL_S, LEASE_TTL_S)
        self.store: Store = kind(lambda: self.server, Direct(), random.Random(1), lives, namespace)

    def open(self) -> AbstractAsyncContextManager[AuditStore]:
        return open_audit_store(lambda: self.server, Direct(), namespace=self._namespace)

    async def raw(self, key: str) -> bytes | None:
        raw, expires_at = self._data.slots.get(key, (None, 0.0))
        return raw if expires_at > self.server.now() else None

    async def life_s(self, key: str) -> float:
        return self._data.slots[key][1] - self.server.now()

    async def put(self, key: str, raw: bytes) -> None:
        self._data.slots[key] = (raw, self.server.now() + SLOT_TTL_S)

    async def watermark(self) -> Watermark | None:
        return self._data.watermark

    async def put_watermark(self, watermark: Watermark | None) -> None:
        self._data.watermark = watermark

    async def fence(self) -> tuple[str, str, float, str] | None:
        fence = self._data.fence
        now = self.server.now()
        if fence is None or fence.expires_at <= now:
            return None
        return fence.server, fence.epoch, fence.expires_at - now, fence.incarnation

    async def put_fence(self, server: str, epoch: str, life_s: float, incarnation: str) -> None:
        self._data.fence = fake.Fence(server, epoch, incarnation, self.server.now() + life_s)

    @property
    def _data(self) -> fake.Data:
        return self.server.data.of(self._namespace)


class RedisBench:
    """Redis itself."""

    def __init__(
        self, url: str, namespace: str, store: Store, open_store: Callable[[], AbstractAsyncContextManager[AuditStore]]
    ) -> None:
        self.store = store
        self.open = open_store
        self.names = Names(namespace)
        self.client = redis.asyncio.Redis.from_url(url)

    async def raw(self, key: str) -> bytes | None:
        found = await self.client.get(self.names.prefix + key)
        assert found is None or isinstance(found, bytes)
        return found

    async def life_s(self, key: str) -> float:
        left_ms = await self.client.pttl(self.names.prefix + key)
        assert left_ms >= 0, "nothing that expires"
        return float(left_ms) / 1_000

    async def put(self, key: str, raw: bytes) -> None:
        await self.client.set(self.names.prefix + key, raw, ex=SLOT_TTL_S)

    async def watermark(self) -> Watermark | None:
        found = await self.client.get(self.names.watermark)
        assert await self.client.ttl(self.names.watermark) in (-1, -2), "a watermark never expires"
        if found is None:
            return None
        assert isinstance(found, bytes)
        server, _, rest = found.decode().partition("|")
        epoch, xid, *incarnation = rest.split(":")
        return Watermark(epoch, int(xid) if xid else None, "".join(incarnation), server)

    async def put_watermark(self, watermark: Watermark | None) -> None:
        if watermark is None:
            await self.client.delete(self.names.watermark)
        else:
            progress = "" if watermark.xid is None else f"{watermark.xid:020d}:{watermark.incarnation}"
            await self.client.set(self.names.watermark, f"{watermark.server}|{watermark.epoch}:{progress}")

    async def fence(self) -> tuple[str, str, float, str] | None:
        found, left_ms = await self.client.get(self.names.fence), await self.client.pttl(self.names.fence)
        assert left_ms != -1, "a fence always expires"
        if found is None or left_ms < 0:
            return None
        assert isinstance(found, bytes)
        server, _, rest = found.decode().rpartition("|")
        epoch, _, incarnation = rest.partition(":")
        return server, epoch, left_ms / 1_000, incarnation

    async def put_fence(self, server: str, epoch: str, life_s: float, incarnation: str) -> None:
        await self.client.set(self.names.fence, f"{server}|{epoch}:{incarnation}", px=int(life_s * 1_000))


@asynccontextmanager
async def open_redis_bench(url: str, namespace: str, near_bytes: int = 0, user_url: str = "") -> AsyncIterator[RedisBench]:
    """Open Redis for the contract. The store connects by ``user_url``, if one is given, and the test's own hand by ``url``."""
    options = replace(redis_options(user_url or url), near_bytes=near_bytes)
    lives = lifetimes(slot_ttl_s=SLOT_TTL_S, absent_ttl_s=ABSENT_TTL_S, ttl_jitter_percent=10, lease_ttl_ms=LEASE_TTL_S * 1_000)
    links, link = RedisLinks(options), options.link()
    await links.start()
    bench = RedisBench(url, namespace, RedisStore(links, namespace, lives), RedisAuditStores(link, namespace).open)
    yield bench
    await bench.client.aclose()
    await link.close()
    await links.close()


class OnePartition(Store):
    """The ``Store`` port of one partition, whatever the keys. Each call has a request for a second one in front of its own."""

    def __init__(self, store: RedisPartitions, partition: int, neighbour: int) -> None:
        self._store = store
        self._partition = partition
        self._neighbour = neighbour

    @override
    async def read(self, keys: Sequence[str], lease: Sequence[str] = ()) -> Reading:
        other: ReadRequest = (self._neighbour, ["none", "nothing"], [])
        empty, reading = await self._node.read([other, (self._partition, keys, lease)])
        assert empty == Reading("", [None, None])
        return answer(reading)

    @override
    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        nothing, taken = await self._node.lease([(self._neighbour, ["none"]), (self._partition, keys)])
        assert nothing == {}
        return answer(taken)

    @override
    async def publish(self, publications: Sequence[Publication]) -> Published:
        state = Absent("none", publications[0].state.epoch, 1)
        other = (self._neighbour, [Publication(state)])
        untrusted, published = await self._node.publish([other, (self._partition, publications)])
        assert untrusted == Published((Outcome.UNTRUSTED,), proven=False)
        return answer(published)

    @override
    async def release(self, tokens: dict[str, str]) -> None:
        await self._node.release([(self._neighbour, {"none": "ffffffffffffffff"}), (self._partition, tokens)])

    @override
    async def drop(self, key: str) -> None:
        await self._node.drop(self._partition, key)

    @property
    def _node(self) -> NodeStore:
        node = self._store.node(self._partition)
        assert node is not None
        return node


class OnePartitionAudit(AuditStore):
    """The ``AuditStore`` port of one partition in a cycle of all."""

    def __init__(self, store: RedisPartitionsAudit, partition: int) -> None:
        self._store = store
        self._partition = partition

    @override
    async def begin(self, claim_ms: int) -> Begun:
        return answer((await self._store.begin(claim_ms))[self._partition])

    @override
    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        return answer((await self._store.verify(epoch, {self._partition: rows}))[self._partition])

    @override
    async def distrust(self, mark: Watermark | None) -> None:
        answer((await self._store.distrust({self._partition: mark}))[self._partition])

    @override
    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        return answer((await self._store.trust({self._partition: begun}, proven, fence_ttl_ms))[self._partition])


def answer(result: Result | StoreUnavailable) -> Result:
    """Return a partition's result, or raise the error that it is."""
    if isinstance(result, StoreUnavailable):
        raise result
    return result


@asynccontextmanager
async def open_partition_bench(url: str, namespace: str) -> AsyncIterator[RedisBench]:
    """Open one of 64 partitions for the contract, on whichever node of a cluster it is."""
    partitions = Partitions(namespace, 64)
    options = replace(redis_options(url), retry_ms=10)
    nodes = RedisNodes(options, partitions.slots)
    await nodes.start()
    lives = lifetimes(slot_ttl_s=SLOT_TTL_S, absent_ttl_s=ABSENT_TTL_S, ttl_jitter_percent=10, lease_ttl_ms=LEASE_TTL_S * 1_000)
    store, audits = RedisPartitions(nodes, partitions, lives), RedisPartitionAudits(nodes, partitions)
    own = partitions.of(namespace)
    neighbour = next(n for n in range(64) if n != own and store.node(n) is store.node(own))
    found = (await map_of(options, URL_ADDRESS)).owner(partitions.slots[own])
    assert found is not None

    @asynccontextmanager
    async def open_audit() -> AsyncIterator[AuditStore]:
        async with audits.open() as opened:
            yield OnePartitionAudit(opened, own)

    tag = f"{{{partitions.tags[own]}}}"
    bench = RedisBench(at(options, found).url, tag, OnePartition(store, own, neighbour), open_audit)
    yield bench
    await bench.client.aclose()
    await nodes.close()

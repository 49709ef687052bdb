"""Copies of slots in a process: what Redis takes back, and when."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import redis.asyncio

from app.cache.redis.connection import RedisConnection
from app.cache.redis.near_slots import NearSlots, track
from app.cache.redis.store import Names, RedisLinks, RedisStore
from app.cache.redis.succession import Succession
from tests.limits import lifetimes, redis_options

KEYS = [f"p{number}" for number in range(4)]
RAW = {key: b"V" + key.encode() * 20 for key in KEYS}


class Bench:
    """A store with copies, and somebody else who changes slots."""

    def __init__(self, links: RedisLinks, namespace: str, client: "redis.asyncio.Redis") -> None:
        self.links = links
        self.store = RedisStore(links, namespace, lifetimes())
        self.prefix = Names(namespace).prefix
        self.client = client

    @property
    def near(self) -> NearSlots:
        """The copies of the connection in use."""
        near = self.links.reads.connection().near
        assert near is not None
        return near

    async def read(self) -> list[bytes | None]:
        """What a read of all keys finds."""
        return list((await self.store.read(KEYS)).slots)

    async def copies(self) -> int:
        """Read all keys, and return how many of them Redis did not send."""
        before = self.links.near_slots
        assert await self.read() == [RAW[key] for key in KEYS]
        return self.links.near_slots - before

    async def put(self, key: str, raw: bytes, px: int | None = None) -> None:
        """Change a slot by hand."""
        await self.client.set(self.prefix + key, raw, px=px)


@pytest.fixture
def near_bytes() -> int:
    return 1_000_000


@pytest.fixture
async def bench(redis_url: str, namespace: str, near_bytes: int) -> AsyncIterator[Bench]:
    """All slots are filled, and read once."""
    links = RedisLinks(replace(redis_options(redis_url), near_bytes=near_bytes))
    await links.start()
    client = redis.asyncio.Redis.from_url(redis_url)
    made = Bench(links, namespace, client)
    for key in KEYS:
        await made.put(key, RAW[key])
    assert await made.copies() == 0
    yield made
    await client.aclose()
    await links.close()


@pytest.mark.guarantee("G7")
async def test_copies_are_used(bench: Bench) -> None:
    """Slots that were read once are not sent again."""
    assert await bench.copies() == len(KEYS)


async def test_connection_that_is_replaced(bench: Bench) -> None:
    """Its copies go at once, though it stays open for a while. A read that was sent before reads them anew."""
    old, near = bench.links.reads.connection(), bench.near
    names = [bench.prefix + key for key in KEYS]
    succession = Succession(bench.links.reads._open, 0, 0.01)  # which replaces a connection at once
    new: RedisConnection | None = None
    try:
        while (new := succession.present(old)) is old:
            assert near.others(names) == []
            await asyncio.sleep(0.001)
        assert old.alive
        assert near.others(names) == names
        assert near.join(names, [], [], near.invalidations) is None
        near.join(names, names, list(RAW.values()), near.invalidations)
        assert near.others(names) == names
    finally:
        await succession.aclose()
        if new is not None:
            await new.close()


@pytest.mark.guarantee("G1")
async def test_slot_is_changed(bench: Bench) -> None:
    """A changed slot is read anew by the next read, every time."""
    for number in range(50):
        changed = b"V%d" % number
        await bench.put(KEYS[0], changed)
        assert await bench.read() == [changed, *(RAW[key] for key in KEYS[1:])]


@pytest.mark.guarantee("G1")
async def test_slot_is_changed_by_the_same_process(bench: Bench) -> None:
    """What the process does by its other connections is told to its reading connection, too."""
    await bench.store.drop(KEYS[0])
    assert (await bench.read())[0] is None


async def test_slot_is_leased(bench: Bench) -> None:
    """A lease is not kept, because it is about to be replaced."""
    await bench.put(KEYS[0], b"Lease")
    assert (await bench.read())[0] == b"Lease"
    assert bench.near.others([bench.prefix + key for key in KEYS]) == [bench.prefix + KEYS[0]]


async def test_slot_expires(bench: Bench) -> None:
    """A slot whose time is over is gone when somebody has touched it."""
    await bench.put(KEYS[0], RAW[KEYS[0]], px=20)
    await bench.read()
    await asyncio.sleep(0.05)
    assert await bench.client.get(bench.prefix + KEYS[0]) is None
    assert (await bench.read())[0] is None


@pytest.mark.guarantee("G1")
async def test_connection_is_replaced(bench: Bench) -> None:
    """A new connection begins without copies."""
    await bench.links.reads.connection().close()
    while not bench.links.up:
        await asyncio.sleep(0.01)
    assert await bench.copies() == 0


@pytest.mark.guarantee("G7")
async def test_many_slots_are_changed_at_once(bench: Bench) -> None:
    """The connection outlives more invalidations than the interpreter could nest calls."""
    keys = [f"many-{number}" for number in range(1_500)]
    async with bench.client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.set(bench.prefix + key, b"V" + key.encode())
        await pipe.execute()
    await bench.store.read(keys)
    connection = bench.links.reads.connection()
    await bench.client.delete(*(bench.prefix + key for key in keys))
    assert (await bench.store.read(keys)).slots == [None] * len(keys)
    assert bench.links.reads.connection() is connection
    assert bench.near.invalidations >= len(keys)


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize("near_bytes", [600])
async def test_copies_are_limited(bench: Bench) -> None:
    """The oldest copies make room for new ones, and a slot that is larger than the limit is not kept."""
    names = [bench.prefix + key for key in KEYS]
    assert bench.near.others(names) == names[:2]
    await bench.put(KEYS[3], b"V" + b"x" * 1_000)
    await bench.read()
    assert bench.near.others(names) == [names[0], names[3]]


@pytest.mark.guarantee("G1")
async def test_slot_is_changed_all_the_time(bench: Bench) -> None:
    """No read is older than the last change that was answered before it began."""
    done = 0

    async def change() -> None:
        nonlocal done
        for number in range(1, 1_000):
            await bench.put(KEYS[0], b"V%d" % number)
            done = number

    changing = asyncio.create_task(change())
    while not changing.done():
        floor = done
        [first, *_] = await bench.read()
        assert first is not None
        assert first == RAW[KEYS[0]] or int(first[1:]) >= floor
    await changing


async def test_everything_is_flushed() -> None:
    """A flush takes everything back in one message."""
    near = NearSlots(1_000)
    near.join(["a"], ["a"], [b"V1"], 0)
    await near.invalidate([b"invalidate", None])
    assert near.others(["a"]) == ["a"]


async def test_message_comes_with_the_reply() -> None:
    """A slot is not kept if it may have changed since it was read."""
    near = NearSlots(1_000)
    await near.invalidate([b"invalidate", [b"b"]])
    assert near.join(["a"], ["a"], [b"V1"], since=0) == [b"V1"]
    assert near.others(["a"]) == ["a"]


async def test_copy_is_taken_back_meanwhile() -> None:
    """A read whose copy is gone by the time of its reply has no answer."""
    near = NearSlots(1_000)
    near.join(["a"], ["a"], [b"V1"], 0)
    await near.invalidate([b"invalidate", [b"a"]])
    assert near.join(["a", "b"], ["b"], [b"V2"], since=1) is None


async def test_user_may_not_track(redis_url: str) -> None:
    """Without the right to track, or on an old server, there are no copies and no error."""
    client = redis.asyncio.Redis.from_url(redis_url)
    await client.acl_setuser("reader", enabled=True, passwords=["+secret"], commands=["+@all", "-client|tracking"], keys=["*"])
    raw = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    raw.username, raw.password = "reader", "secret"
    await raw.connect()
    try:
        assert await track(raw, b"\nredis_version:7.2.4\r\n", 1_000) is None
        assert await track(raw, b"\nredis_version:6.2.14\r\n", 1_000) is None
    finally:
        await raw.disconnect()
        await client.acl_deluser("reader")
        await client.aclose()

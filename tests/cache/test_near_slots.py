"""Copies of slots in a process: what Redis takes back, and when."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import redis.asyncio

from app.cache.redis.store import Names, RedisLinks, RedisStore
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

    async def read(self) -> list[bytes | None]:
        """What a read of all keys finds."""
        return list((await self.store.read(KEYS)).slots)

    async def sends(self) -> int:
        """Read, and return how many slots Redis sent."""
        found: list[int] = []
        near = self.links.reads.near
        assert near is not None
        found.append(len(near.others([self.prefix + key for key in KEYS])))
        assert await self.read() == [RAW[key] for key in KEYS]
        return found[0]

    async def put(self, key: str, raw: bytes, px: int | None = None) -> None:
        """Change a slot by hand."""
        await self.client.set(self.prefix + key, raw, px=px)


@pytest.fixture
async def bench(redis_url: str, namespace: str) -> AsyncIterator[Bench]:
    """All slots are filled, and read once."""
    links = RedisLinks(replace(redis_options(redis_url), near_bytes=1_000_000))
    await links.start()
    client = redis.asyncio.Redis.from_url(redis_url)
    made = Bench(links, namespace, client)
    for key in KEYS:
        await made.put(key, RAW[key])
    assert await made.sends() == len(KEYS)
    yield made
    await client.aclose()
    await links.close()


async def test_copies_are_used(bench: Bench) -> None:
    """Slots that were read once are not sent again."""
    assert await bench.sends() == 0


async def test_change_by_another(bench: Bench) -> None:
    """A changed slot is read anew by the next read, every time."""
    for number in range(50):
        RAW_NOW = b"V%d" % number
        await bench.put(KEYS[0], RAW_NOW)
        assert await bench.read() == [RAW_NOW, *(RAW[key] for key in KEYS[1:])]


async def test_slot_is_gone(bench: Bench) -> None:
    """Deleted, expired and flushed slots are read as empty."""
    await bench.client.delete(bench.prefix + KEYS[0])
    await bench.put(KEYS[1], RAW[KEYS[1]], px=20)
    await bench.read()
    await asyncio.sleep(0.05)
    await bench.client.get(bench.prefix + KEYS[1])  # whoever touches it first removes it
    assert await bench.read() == [None, None, RAW[KEYS[2]], RAW[KEYS[3]]]


async def test_flush(bench: Bench) -> None:
    """A flush takes everything back in one message."""
    await bench.client.flushdb()
    assert await bench.read() == [None] * 4


async def test_changes_under_load(bench: Bench) -> None:
    """Of many reads at the same time as changes, none is older than the last change that was answered before it began."""
    done = 0

    async def change() -> None:
        nonlocal done
        for number in range(1, 2000):
            await bench.put(KEYS[0], b"V%d" % number)
            done = number

    changing = asyncio.create_task(change())
    reads = 0
    while not changing.done():
        floor = done
        [first, *_] = await bench.read()
        assert first is not None
        assert first == RAW[KEYS[0]] or int(first[1:]) >= floor
        reads += 1
    await changing
    assert reads > 100

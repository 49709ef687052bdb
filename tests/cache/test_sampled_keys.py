"""The sample of written keys."""

from collections import Counter
from dataclasses import replace
from zlib import crc32

from app.cache.sampled_keys import SampledKeys
from app.products.commands import Put, set_stock
from tests.cache.rig import LONG_FENCE, draft, open_process

KEY = "mug"


def test_writes_are_counted_once() -> None:
    """A write counts when it is first read, or when the key's next write comes first; before that it counts nowhere."""
    counts: Counter[str] = Counter()
    sample = SampledKeys(1, counts)
    sample.read(["a"])
    sample.write(["a", "b"])
    assert counts == {}
    sample.read(["a", "a"])
    sample.write(["a", "b"])
    assert counts == {"yes": 1, "no": 1}


def test_table_is_bounded() -> None:
    """Beyond the limit the oldest unread write is forgotten, and is not counted."""
    counts: Counter[str] = Counter()
    sample = SampledKeys(1, counts, limit=2)
    sample.write(["a", "b", "c"])
    sample.read(["a", "b", "c"])
    assert counts == {"yes": 2}


def test_one_key_in_so_many() -> None:
    """Which keys are sampled depends on their hash alone, so that every process samples the same ones."""
    counts: Counter[str] = Counter()
    sample = SampledKeys(64, counts)
    keys = [f"p-{number}" for number in range(10_000)]
    sample.write(keys)
    sample.read(keys)
    assert counts["yes"] == sum(crc32(key.encode()) % 64 == 0 for key in keys)
    assert 100 < counts["yes"] < 220


async def test_cache_samples_its_reads_and_writes(redis_url: str, database_url: str, namespace: str) -> None:
    """Hits, hot reads included, and misses are reads; every committed state is a write."""
    async with open_process(redis_url, database_url, namespace, config=replace(LONG_FENCE, sample_keys=1)) as process:
        await process.trust()
        await process.write(Put(draft(KEY)))
        await process.write(set_stock(KEY, 1))
        process.cache.peek(KEY, lambda _: None)
        await process.version(KEY)
        await process.write(set_stock(KEY, 2))
        await process.cache.drop(KEY)
        await process.version(KEY)
        assert process.stats.written_keys == {"no": 1, "yes": 2}

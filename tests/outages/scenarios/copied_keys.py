"""A tool copies keys one by one to another Redis, and the service moves there under load, and back again.

A copy is as old as the moment at which it was made, and no two keys are copied at one moment. No client reads old data, no
request fails, and hits come back after each move.
"""

import asyncio
import time
from pathlib import Path

import redis.asyncio

from app.private_servers import RedisServer, start_redis
from tests.harness.cluster import AUDIT_INTERVAL_S, CACHE_NAME, FENCE_TTL_S
from tests.harness.proxy import Target
from tests.harness.workload import Load
from tests.outages.scenarios.report import Report, hits
from tests.outages.stage import Stage, open_stage

_LOAD = Load(readers=16, reader_pause_s=0.01, writers=4, writer_pause_s=0.05, counts_only=True)
_BETWEEN_S = 1.5 * AUDIT_INTERVAL_S
"""From the last copy of a slot to the copy of the watermark: an audit ends meanwhile, and has compared what was written."""
_STAY_S = 2 * FENCE_TTL_S
_BACK_S = FENCE_TTL_S + 4 * AUDIT_INTERVAL_S
"""When hits should be back: a fence of the other server must not live, and two audits have to pass."""
_HITS_PERCENT = 30


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Move at least twice, there and back."""
    async with open_stage(directory, _LOAD) as on:
        second = await start_redis(directory / "redis-2", options={"requirepass": on.cluster.redis.password})
        try:
            await _move_about(on, second, seconds, report)
        finally:
            await second.stop()
        report.no_stale_reads("on both servers", on.history.reads, on.history.writes)
        report.none("requests not served", on.history.failures)
        report.at_least("hits, percent", hits(on.history.reads), _HITS_PERCENT)


async def _move_about(on: Stage, second: RedisServer, seconds: float, report: Report) -> None:
    source, target = on.cluster.redis, second
    copied, back_s = 0, list[float]()
    on.workload.start()
    end = time.monotonic() + seconds
    while len(back_s) < 2 or time.monotonic() < end:
        copied += await _copy_keys(source, target)
        for instance in on.cluster.instances:
            instance.redis.target = Target(path=target.socket)
            instance.redis.cut()
        back_s.append(await on.cluster.until_trusted(4 * _BACK_S))
        await asyncio.sleep(_STAY_S)
        source, target = target, source
    await on.workload.stop()
    report.tell("moves to another Redis", len(back_s))
    report.at_least("keys copied one by one, each move", copied / len(back_s), 10)
    report.at_most("seconds from a move to hits on every instance, longest", max(back_s), _BACK_S)


async def _copy_keys(source: RedisServer, target: RedisServer) -> int:
    """Copy the slots, and later watermark and fence; return how many keys were copied."""
    async with redis.asyncio.Redis.from_url(source.url) as old, redis.asyncio.Redis.from_url(target.url) as new:
        slots = await _copy(old, new, f"wtc:{CACHE_NAME}:*")
        await asyncio.sleep(_BETWEEN_S)
        return slots + await _copy(old, new, f"wtc-*:{CACHE_NAME}")


async def _copy(source: redis.asyncio.Redis, target: redis.asyncio.Redis, pattern: str) -> int:
    copied = 0
    async for name in source.scan_iter(pattern, count=100):
        content, left_ms = await source.dump(name), await source.pttl(name)
        if isinstance(content, bytes):
            await target.restore(name, max(0, left_ms), content, replace=True)
            copied += 1
    return copied

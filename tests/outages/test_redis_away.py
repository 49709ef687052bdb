"""Tests of the time that the loss of Redis costs a writer, for one of three services and for all of them."""

import asyncio
import statistics
import time

import pytest

from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S
from tests.harness.workload import Load, count
from tests.outages.conftest import Stages
from tests.outages.stage import Stage

REDIS_DEADLINE_S = 0.1
_QUIET = Load(readers=8, reader_pause_s=0.05, writers=3, writer_pause_s=0.1, counts_only=True)
_MEASURED = 12


async def _seconds_to_acknowledge(stage: Stage, instance: int, writes: int) -> list[float]:
    """Write one product after another, at most once every 50 ms, and return the seconds that each write took."""
    taken = []
    for number in range(writes):
        key = stage.workload.hot[number % len(stage.workload.hot)]
        began = time.monotonic()
        acknowledged = await stage.workload.write(stage.cluster.instances[instance], count(key, stage.workload.next_mark()))
        assert acknowledged, stage.history.failures
        taken.append(time.monotonic() - began)
        await asyncio.sleep(0.05)  # not to be in step with the audits
    return taken


@pytest.mark.guarantee("G3", "R4")
@pytest.mark.slow
@pytest.mark.alone
async def test_redis_cut_from_one_of_three(stage: Stages) -> None:
    """Its writes are acknowledged within one audit interval + 100 ms (median), and no instance reads old data (G1)."""
    async with stage(_QUIET) as on:
        on.workload.start()
        with on.log.on("redis-refuse", "redis", 0):
            on.cluster.instances[0].redis.refuse()
            taken = await _seconds_to_acknowledge(on, 0, _MEASURED)
            hits = sum(read.status == "hit" and read.instance != 0 for read in on.history.reads)
            await on.cluster.instances[0].redis.heal()
        await on.cluster.until_trusted()
        await on.workload.stop()
        settled = (await on.cluster.instances[0].metrics())["larder_cache_settles_total"]
        assert on.judge() == []
        assert settled >= _MEASURED
        assert hits > 50, "the other two went on serving from the cache"
        assert statistics.median(taken) <= AUDIT_INTERVAL_S + 0.1, taken


@pytest.mark.guarantee("G3", "R4")
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("how", ["killed", "hanging"])
async def test_redis_away_from_everybody(stage: Stages, how: str) -> None:
    """After the fence has expired, a write costs no more than PostgreSQL and one deadline, and no request fails (G3)."""
    async with stage(_QUIET) as on:
        usual = statistics.median(await _seconds_to_acknowledge(on, 0, _MEASURED))
        on.workload.start()
        with on.log.on(f"redis-{how}", "redis"):
            if how == "killed":
                await on.cluster.redis.kill()
            else:
                on.cluster.redis.pause()
            await asyncio.sleep(FENCE_TTL_S + 0.1)  # the time after which the property must hold
            taken = [seconds for instance in range(3) for seconds in await _seconds_to_acknowledge(on, instance, _MEASURED)]
            if how == "killed":
                await on.cluster.redis.restart()
            else:
                on.cluster.redis.resume()
        await on.cluster.until_trusted()
        await on.workload.stop()
        assert on.judge() == []
        assert statistics.median(taken) <= usual + REDIS_DEADLINE_S, (usual, taken)
        assert max(taken) <= usual + REDIS_DEADLINE_S + 0.3, (usual, taken)

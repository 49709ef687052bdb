"""Redis is killed for five seconds under reads and writes, and comes back empty: no request fails, and hits come back soon.

The hottest product is observed separately: when Redis answers again, all its clients miss at once. Writes create products. An
instance takes leases for them and does not publish without leases, so it may notice only after Redis is back and a lease was
taken that its connection for publishes is dead. New connections are accepted one after another, as by a server to which many
instances connect at once.
"""

import asyncio
import time
from pathlib import Path

from tests.harness.cluster import PROBE, Instance
from tests.harness.workload import Load, Order
from tests.outages.scenarios.report import Report, share
from tests.outages.stage import Stage, open_stage

_LOAD = Load(readers=12, reader_pause_s=0.02, writers=0, counts_only=True)
_AWAY_S = 5.0
_BACK_S = 2.5
_GIVEN_UP_S = 8.0
_CALM_S = 1.5
_READERS_OF_THE_HOTTEST = 4
_PAUSE_S = 0.02
_BETWEEN_CONNECTIONS_S = 0.15


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario as often as there is time."""
    async with open_stage(directory, _LOAD) as on:
        for instance in on.cluster.instances:
            instance.redis.between_s = _BETWEEN_CONNECTIONS_S
        over = asyncio.Event()
        clients = [
            asyncio.create_task(_read_hottest(on, instance, over))
            for instance in on.cluster.instances
            for _ in range(_READERS_OF_THE_HOTTEST)
        ]
        clients += [asyncio.create_task(_create(on, instance, over)) for instance in on.cluster.instances]
        on.workload.start()
        began = time.monotonic()
        hottest: list[float] = []
        others: list[float] = []
        while not hottest or time.monotonic() < began + seconds - _AWAY_S - _CALM_S:
            await asyncio.sleep(_CALM_S)
            up = await _kill(on)
            hottest.append(await _until_hit_everywhere(on, PROBE, up))
            others += [await _until_hit_everywhere(on, key, up) for key in on.workload.hot]
        over.set()
        await asyncio.gather(*clients)
        await on.workload.stop()
        report.tell("times that Redis was killed", len(hottest))
        report.at_most("seconds from its answer to hits of the hottest product everywhere, longest", max(hottest), _BACK_S)
        report.at_most("seconds from its answer to hits of every hot product everywhere, longest", max(others), _BACK_S)
        report.none("requests not served", on.history.failures)
        verdict = report.no_stale_reads("all", on.history.reads, on.history.writes)
        report.tell("hits, percent", share(verdict.hits, verdict.checked))
        report.tell("writes acknowledged", verdict.acknowledged)


async def _kill(on: Stage) -> float:
    """Kill Redis; return when it answers again, empty."""
    with on.log.on("redis-kill-empty", "redis"):
        await on.cluster.redis.kill()
        await asyncio.sleep(_AWAY_S)
        await on.cluster.redis.restart()
        return time.monotonic()


async def _read_hottest(on: Stage, instance: Instance, over: asyncio.Event) -> None:
    while not over.is_set():
        await on.workload.read(instance, PROBE)
        await asyncio.sleep(_PAUSE_S)


async def _create(on: Stage, instance: Instance, over: asyncio.Event) -> None:
    while not over.is_set():
        mark = on.workload.next_mark()
        key = f"new-{mark}"
        document = {"name": f"e0 {key}", "price_cents": mark}
        await on.workload.write(instance, Order("put", (key,), mark, "PUT", f"/products/{key}", document))
        await asyncio.sleep(_PAUSE_S)


async def _until_hit_everywhere(on: Stage, key: str, since: float) -> float:
    """Return the seconds until the clients saw a hit from every instance for a read that began after that moment."""
    while True:
        now = time.monotonic()
        seen: dict[int, float] = {}
        for read in reversed(on.history.reads):
            if read.returned < since:
                break
            if read.key == key and read.called >= since and read.status == "hit":
                seen[read.instance] = read.returned
        if len(seen) == len(on.cluster.instances) or now > since + _GIVEN_UP_S:
            return max(seen.values()) - since if len(seen) == len(on.cluster.instances) else now - since
        await asyncio.sleep(_PAUSE_S)

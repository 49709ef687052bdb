"""Two Redis servers for one database: an old master that one instance still reaches, or a move of Redis that is half done.

The trusted side stays trusted and is not affected; the other side reads PostgreSQL. No client reads old data, no write takes
longer than a fence lives, and when the first server dies the other side takes over.
"""

import asyncio
import time
from pathlib import Path

from app.private_servers import start_redis
from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S, PROBE, Instance
from tests.harness.proxy import Target
from tests.harness.workload import Load
from tests.outages.scenarios.report import Report, hits, percentile
from tests.outages.stage import Stage, open_stage

_LOAD = Load(readers=12, reader_pause_s=0.02, writers=4, writer_pause_s=0.06, counts_only=True)
_HITS_PERCENT = 90
_USUAL_S = AUDIT_INTERVAL_S / 2
"""Bound of a write's median. A write that had to wait for an audit or for a fence to expire would take longer."""
_BUDGET_S = FENCE_TTL_S + AUDIT_INTERVAL_S
_TAKES_OVER_S = 3.5
"""Largest TTL, two intervals and one audit."""
_POLL_S = 0.01


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario."""
    async with open_stage(directory, _LOAD) as on:
        second = await start_redis(directory / "redis-2", options={"requirepass": on.cluster.redis.password})
        try:
            *_, moved = on.cluster.instances
            moved.redis.target = Target(path=second.socket)
            moved.redis.cut()
            on.workload.start()
            began = time.monotonic()
            await asyncio.sleep(seconds)
            _judge_sides(on, moved, began, report)
            await _first_dies(on, moved, report)
            await on.workload.stop()
            report.no_stale_reads("both sides", on.history.reads, on.history.writes)
            report.none("requests not served", on.history.failures)
        finally:
            await second.stop()


def _judge_sides(on: Stage, moved: Instance, began: float, report: Report) -> None:
    for name, instances, promised in (
        ("of the first Redis", {i.number for i in on.cluster.instances} - {moved.number}, True),
        ("of the second Redis", {moved.number}, False),
    ):
        reads = [r for r in on.history.reads if r.instance in instances and r.called > began and r.kind == "read"]
        taken = [end - call for _, number, call, end in on.workload.latencies if number in instances and call > began]
        report.tell(f"reads {name}", len(reads))
        if promised:
            report.at_least(f"hits {name}, percent", hits(reads), _HITS_PERCENT)
            report.at_most(f"seconds of a write {name}, p50", percentile(taken, 50), _USUAL_S)
        else:
            report.tell(f"hits {name}, percent", hits(reads))
            report.tell(f"seconds of a write {name}, p50", percentile(taken, 50))
        report.at_most(f"seconds of a write {name}, longest", max(taken, default=99.0), _BUDGET_S)


async def _first_dies(on: Stage, moved: Instance, report: Report) -> None:
    with on.log.on("redis-kill", "redis"):
        killed = time.monotonic()
        await on.cluster.redis.kill()
        while not await moved.hits(PROBE) and time.monotonic() < killed + 2 * _TAKES_OVER_S:
            await asyncio.sleep(_POLL_S)
    report.at_most("seconds from the first one's death to hits of the second", time.monotonic() - killed, _TAKES_OVER_S)

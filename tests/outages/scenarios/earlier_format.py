"""A rolling deploy over a release whose slots have another format, and which looks for other namespaces.

The two formats are two namespaces to the audits. No client reads old data in any phase; the old instances serve hits until the
last of them stops, and then the new ones do.
"""

import asyncio
import time
from pathlib import Path

from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S, an_instance
from tests.harness.workload import Load
from tests.outages.release import Release
from tests.outages.scenarios.report import Report, hits
from tests.outages.stage import open_stage

_LOAD = Load(readers=12, reader_pause_s=0.02, writers=4, writer_pause_s=0.06, counts_only=True)
_HITS_PERCENT = 50
_HITS_AGAIN_S = 2 * FENCE_TTL_S + 2 * AUDIT_INTERVAL_S
_WRITE_BUDGET_S = FENCE_TTL_S + AUDIT_INTERVAL_S


async def deploy(directory: Path, seconds: float, report: Report, old: Release, new: Release) -> None:
    """Start two instances of the new release beside two of the old one, and stop the old ones one after the other."""
    stage = open_stage(directory, _LOAD, instances=2, program=old.program)
    async with (
        stage as on,
        an_instance(on.cluster, 2, program=new.program) as third,
        an_instance(on.cluster, 3, program=new.program) as fourth,
    ):
        serving = on.cluster.instances
        replaced = list(serving)
        on.workload.start()
        await asyncio.sleep(seconds / 3)
        for instance in (third, fourth):
            await instance.restart(on.cluster.database)
        serving += [third, fourth]
        beside = time.monotonic()
        await asyncio.sleep(seconds / 3)
        for instance in replaced:
            serving.remove(instance)
            await instance.terminate()
        stopped = time.monotonic()
        await on.cluster.until_trusted(2 * _HITS_AGAIN_S, [third, fourth])
        report.at_most("seconds from the last old instance's end to hits", time.monotonic() - stopped, _HITS_AGAIN_S)
        await asyncio.sleep(seconds / 3)
        await on.workload.stop()
        for name, numbers, since, until in (
            ("old instances side by side", {0, 1}, beside, stopped),
            ("new instances side by side", {2, 3}, beside, stopped),
            ("new instances at last", {2, 3}, stopped + _HITS_AGAIN_S, float("inf")),
        ):
            reads = [read for read in on.history.reads if read.instance in numbers and since <= read.called < until]
            report.tell(f"reads of the {name}", len(reads))
            if numbers == {2, 3} and until == stopped:
                report.tell(f"hits of the {name}, percent", hits(reads))
            else:
                report.at_least(f"hits of the {name}, percent", hits(reads), _HITS_PERCENT)
        report.no_stale_reads("in all phases", on.history.reads, on.history.writes)
        report.none("requests not served", on.history.failures)
        taken = [returned - called for _, _, called, returned in on.workload.latencies]
        report.seconds_of_writes("", taken, _WRITE_BUDGET_S)

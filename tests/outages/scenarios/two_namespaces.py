"""Two cache namespaces of one database: a setting that was changed on some instances only, or a release that raised it.

One namespace is trusted at a time. No client reads old data in either; hits are not promised, and a write waits at most for the
fence of the other namespace.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S, an_instance
from tests.harness.workload import Load
from tests.outages.release import Release
from tests.outages.scenarios.report import Report, hits
from tests.outages.stage import open_stage

_LOAD = Load(readers=12, reader_pause_s=0.02, writers=4, writer_pause_s=0.06, counts_only=True)
_SECOND = "outages.2"
_WRITE_BUDGET_S = FENCE_TTL_S + AUDIT_INTERVAL_S


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Write and read on both sides."""
    await compare(directory, seconds, report, Release())


async def compare(directory: Path, seconds: float, report: Report, release: Release, *, revision: str = "head") -> None:
    """Run two instances of a release, each with a namespace of its own."""
    second = replace(release, namespace=_SECOND)
    stage = open_stage(directory, _LOAD, instances=1, program=release.program, revision=revision)
    async with stage as on, an_instance(on.cluster, 1, program=second.program) as other:
        await other.restart(on.cluster.database)
        on.cluster.instances.append(other)
        on.workload.start()
        await asyncio.sleep(seconds)
        await on.workload.stop()
        on.cluster.instances.remove(other)
        report.no_stale_reads("both namespaces", on.history.reads, on.history.writes)
        for number in (0, 1):
            reads = [read for read in on.history.reads if read.instance == number]
            report.tell(f"reads of namespace {number + 1}, and hits, percent", f"{len(reads)}, {hits(reads):.1f}")
        report.none("requests not served", on.history.failures)
        taken = [returned - called for _, _, called, returned in on.workload.latencies]
        report.seconds_of_writes("", taken, _WRITE_BUDGET_S)

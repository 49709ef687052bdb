"""One instance of three loses PostgreSQL: the others keep their hits, because one of them audits instead.

It is the instance that audits at that moment. If all clocks were in step, it would claim every interval.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness.proxy import Proxy
from tests.harness.workload import Load
from tests.outages.scenarios.report import Report, hits
from tests.outages.stage import open_stage

_LOAD = Load(readers=12, reader_pause_s=0.02, writers=2, writer_pause_s=0.1, counts_only=True)
_LONELY_LOAD = Load(readers=2, reader_pause_s=0.05, writers=1, writer_pause_s=0.1, counts_only=True)
_HITS_PERCENT = 95


async def run_refused(directory: Path, seconds: float, report: Report) -> None:
    """Its connections are refused at once."""
    await _run(directory, seconds, report, Proxy.refuse)


async def run_hanging(directory: Path, seconds: float, report: Report) -> None:
    """Its connections stay open, but get no answers."""
    await _run(directory, seconds, report, Proxy.hold)


async def _run(directory: Path, seconds: float, report: Report, break_it: Callable[[Proxy], None]) -> None:
    async with open_stage(directory, _LOAD) as on:
        lonely = await on.cluster.auditor()
        others = [instance for instance in on.cluster.instances if instance is not lonely]
        clients, few = on.clients(_LOAD, others), on.clients(_LONELY_LOAD, [lonely], seed=12)
        history, of_lonely = clients.history, few.history
        with on.log.on("postgres-away", "postgres", lonely.number):
            break_it(lonely.postgres)
            began = time.monotonic()
            clients.start()
            few.start()
            await asyncio.sleep(seconds)
            await clients.stop()
            reads = [read for read in history.reads if read.kind == "read"]
            await lonely.postgres.heal()
        healed = time.monotonic()
        await on.cluster.until_trusted()
        report.tell("seconds until all have hits again", time.monotonic() - healed)
        await few.stop()
    report.tell("reads of the two others", len(reads))
    report.at_least("hits among them, percent", hits(reads), _HITS_PERCENT)
    moments = [read.returned for read in reads if read.status == "hit"]
    report.tell("longest time without a hit, seconds", _longest_gap(moments, began, began + seconds))
    report.no_stale_reads("the two others", history.reads, history.writes)
    report.none("requests that the two others did not serve", history.failures)
    report.tell("reads that the lonely one served", len(of_lonely.reads))
    report.tell("hits among them, percent", hits(of_lonely.reads))
    report.no_stale_reads("the lonely one", of_lonely.reads, [*history.writes, *of_lonely.writes])


def _longest_gap(moments: list[float], began: float, ended: float) -> float:
    edges = [began, *sorted(moments), ended]
    return max((after - before for before, after in itertools.pairwise(edges)), default=0.0)

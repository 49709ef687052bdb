"""The ledger's table is locked, as any DDL locks it, and 40 clients ask for a page of it: hot reads go on as hits."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.outages.client import NoAnswerError
from tests.outages.cluster import Instance, larder_as_it_comes
from tests.outages.scenarios.report import Report, percentile, share
from tests.outages.stage import open_stage
from tests.outages.workload import Load

_LOAD = Load(readers=8, reader_pause_s=0.02, writers=0, hot=8, cold=0)
_LEDGER_CLIENTS = 40
_HITS_PERCENT = 95


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Do it."""
    async with open_stage(directory, _LOAD, instances=1, program=larder_as_it_comes) as on:
        [instance] = on.cluster.instances
        for key in on.workload.hot:
            await on.workload.read(instance, key)
        answers: Counter[str] = Counter()
        over = asyncio.Event()
        async with await on.cluster.session() as session:
            await session.execute("BEGIN")
            await session.execute("LOCK TABLE stock_movements IN ACCESS EXCLUSIVE MODE")
            with on.log.on("ledger-locked", "ledger"):
                clients = [asyncio.create_task(_ask(instance, over, answers)) for _ in range(_LEDGER_CLIENTS)]
                began = time.monotonic()
                on.workload.start()
                await asyncio.sleep(seconds)
                await on.workload.stop()
                over.set()
                await session.execute("ROLLBACK")
        await asyncio.gather(*clients)
        reads = [read for read in on.history.reads if read.called > began and read.kind == "read"]
        taken = [read.returned - read.called for read in reads]
        report.at_least("hot reads", len(reads), int(50 * seconds))
        report.at_least("hits among them, percent", share(sum(r.status == "hit" for r in reads), len(reads)), _HITS_PERCENT)
        report.tell("seconds of a hot read, p50", percentile(taken, 50))
        report.tell("seconds of a hot read, p99", percentile(taken, 99))
        report.no_stale_reads("hot", on.history.reads, on.history.writes)
        report.none("hot reads not served", on.history.failures)
        for answer, number in sorted(answers.items()):
            report.tell(f"pages of the ledger: {answer}", number)


async def _ask(instance: Instance, over: asyncio.Event, answers: Counter[str]) -> None:
    while not over.is_set():
        try:
            answer = await instance.endpoint.request("GET", "/stock/movements?reference=x", timeout_s=20)
        except NoAnswerError as error:
            answers[f"no answer ({error})"] += 1
        else:
            answers[str(answer.status)] += 1
            if answer.status < 500:
                continue
        # A client that was refused waits a little, as clients do.
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 0.05)

"""The ledger's table is locked, as DDL locks it, and 40 clients request a page of it. Hot reads must still be hits.

Hot reads are an open loop: a read that waits does not delay the next ones.
"""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.harness.client import NoAnswerError
from tests.harness.cluster import Instance, larder_as_it_comes
from tests.harness.workload import Load
from tests.outages.scenarios.report import Report, percentile, share
from tests.outages.stage import Stage, open_stage

_LOAD = Load(readers=0, writers=0, hot=8, cold=0)
_READS_PER_S = 100
_LEDGER_CLIENTS = 40
_HITS_PERCENT = 95


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario."""
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
                reads = asyncio.create_task(_read_hot(on, instance, began, seconds))
                await asyncio.sleep(seconds)
                over.set()
                await session.execute("ROLLBACK")
        await reads
        await asyncio.gather(*clients)
        _judge(on, began, int(_READS_PER_S * seconds), report)
        for answer, number in sorted(answers.items()):
            report.tell(f"pages of the ledger: {answer}", number)


async def _read_hot(on: Stage, instance: Instance, began: float, seconds: float) -> None:
    tasks = []
    for number in range(int(seconds * _READS_PER_S)):
        await asyncio.sleep(max(0.0, began + number / _READS_PER_S - time.monotonic()))
        tasks.append(asyncio.create_task(on.workload.read(instance, on.workload.hot[number % len(on.workload.hot)])))
    await asyncio.gather(*tasks)


def _judge(on: Stage, began: float, asked: int, report: Report) -> None:
    reads = [read for read in on.history.reads if read.called > began]
    taken = [read.returned - read.called for read in reads]
    report.tell("hot reads", asked)
    report.at_least("hits among them, percent", share(sum(r.status == "hit" for r in reads), asked), _HITS_PERCENT)
    report.tell("seconds of a hot read, p50", percentile(taken, 50))
    report.tell("seconds of a hot read, p99", percentile(taken, 99))
    report.no_stale_reads("hot", on.history.reads, on.history.writes)
    report.none("hot reads not served", on.history.failures)


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

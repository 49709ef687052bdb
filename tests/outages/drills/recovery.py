"""A base backup under load, and a recovery to a moment before a mistake, twice, beside a running Larder."""

import asyncio
import time
from pathlib import Path

from tests.harness.cluster import Cluster
from tests.outages.drills.clients import LOAD, fill, keep_state, see, see_restored
from tests.outages.drills.page import Operator, commands, operator
from tests.outages.scenarios.report import Report
from tests.outages.stage import open_stage

_MISTAKE = "UPDATE products SET stock = 0 WHERE id LIKE 'hot-%'"


async def run(directory: Path, products: int, report: Report) -> None:
    """Back up, make a mistake, and go back to before it. Then do it again: that is another history once more."""
    archive, backup = commands("Base backup")
    async with open_stage(directory, LOAD, instances=2) as on:
        at = operator(on.cluster)
        await at.run(archive, as_postgres=True)
        await on.cluster.postgres.restart()
        await fill(on, products)
        on.workload.start()
        began = time.monotonic()
        report.tell("seconds of the base backup", await at.run(backup, as_postgres=True))
        await on.workload.stop()
        see(on, began, time.monotonic(), report, interrupted=False, during=" of the base backup")
        target = ""

        async def keep() -> None:
            nonlocal target
            target = await _now(on.cluster)

        await keep_state(on, keep)
        on.workload.start()
        await asyncio.sleep(1)
        async with await on.cluster.session() as session:
            await session.execute(_MISTAKE)
        await asyncio.sleep(1)
        epochs = {await _epoch(on.cluster)}
        called = time.monotonic()
        with on.log.on("recovery", "postgres"):
            reachable = await _recover(at, target, report)
        await see_restored(on, called, reachable, report)
        epochs.add(await _epoch(on.cluster))
        await _recover(at, target, Report(), again=True)
        epochs.add(await _epoch(on.cluster))
        report.demand("epochs: before, recovered, recovered again", len(epochs), "3", kept=len(epochs) == 3)


async def _recover(at: Operator, target: str, report: Report, *, again: bool = False) -> float:
    """Carry out the section; return the moment before PostgreSQL could be reached again."""
    called = time.monotonic()
    stop, put_back, check = commands("Point in time")
    await at.run(stop, as_postgres=True)
    if again:
        await at.run('rm -rf "$PGDATA.before"', as_postgres=True)
    report.tell("seconds of putting the base backup back", await at.run(put_back, as_postgres=True, TARGET=target))
    reachable = time.monotonic()
    await at.cluster.postgres.restart()  # this process holds the server's socket, so that it starts it instead of pg_ctl
    await at.run(check)
    report.tell("seconds of the recovery", time.monotonic() - reachable)
    if not again:
        await at.cluster.until_trusted()
        report.tell("seconds from the stop to hits", time.monotonic() - called)
    return reachable


async def _now(cluster: Cluster) -> str:
    async with await cluster.session() as session:
        [now] = await (await session.execute("SELECT clock_timestamp()::text")).fetchone() or [""]
    return str(now)


async def _epoch(cluster: Cluster) -> str:
    async with await cluster.session() as session:
        [epoch] = await (await session.execute("SELECT larder_epoch('products', 99)")).fetchone() or [""]
    return str(epoch)

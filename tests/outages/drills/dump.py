"""A dump of a database in use, and its restore beside a running Larder, whose Redis has slots of the later time."""

import asyncio
import time
from pathlib import Path

from tests.outages.drills.clients import LOAD, fill, keep_state, see_restored
from tests.outages.drills.page import commands, operator
from tests.outages.scenarios.report import Report
from tests.outages.stage import open_stage


async def run(directory: Path, products: int, report: Report) -> None:
    """Dump, go on, and bring the dump back."""
    [dump] = commands("Dump")
    load, close, swap, check = commands("Restore a dump")
    async with open_stage(directory, LOAD, instances=2) as on:
        await fill(on, products)
        at = operator(on.cluster)

        async def keep() -> None:
            report.tell("seconds of the dump", await at.run(dump))

        await keep_state(on, keep)
        on.workload.start()
        await asyncio.sleep(1)
        await at.run(dump.replace("larder.dump", "busy.dump"))
        report.tell("seconds of loading the dump, and of larder migrate", await at.run(load))
        called = time.monotonic()
        with on.log.on("restore", "postgres"):
            await at.run(close)
            swapped = time.monotonic()
            await at.run(swap)
            await on.cluster.until_trusted()
            report.tell("seconds from the closed database to hits", time.monotonic() - called)
        await see_restored(on, called, swapped, report)
        report.tell("seconds of larder verify", await at.run(check))

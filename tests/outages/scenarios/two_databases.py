"""Two databases, one Redis, one namespace: staging and production that were given the same URL, or a move to another database.

Both have products with the same ids; those of the second are named ``e1 …``. An instance must never return a product of the
other database, or a product of its own that is older than what it acknowledged. Hits are not promised to either.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.postgres.migrations import upgrade
from app.private_servers import PostgresServer, start_postgres
from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S, NO_DISK, Instance, an_instance, postgres_target
from tests.harness.servers import create_database
from tests.harness.workload import Load, Workload
from tests.outages.scenarios.report import Report, hits
from tests.outages.stage import Stage, open_stage

_LOAD = Load(readers=8, reader_pause_s=0.02, writers=3, writer_pause_s=0.06, counts_only=True)
_OTHER = "other"
_READS_PER_S = 167
_WRITE_BUDGET_S = FENCE_TTL_S + AUDIT_INTERVAL_S


async def run_on_one_server(directory: Path, seconds: float, report: Report) -> None:
    """Both databases are of one PostgreSQL."""
    async with open_stage(directory, _LOAD, instances=1) as on:
        await create_database(on.cluster.postgres.url_of("postgres"), _OTHER)
        await _run(on, on.cluster.postgres, seconds, report)


async def run_on_two_servers(directory: Path, seconds: float, report: Report) -> None:
    """Each database has a PostgreSQL of its own; only Redis is shared."""
    async with open_stage(directory, _LOAD, instances=1) as on, _second_server(directory) as server:
        await _run(on, server, seconds, report)


@asynccontextmanager
async def _second_server(directory: Path) -> AsyncIterator[PostgresServer]:
    server = await start_postgres(directory / "postgres-2", database=_OTHER, options=NO_DISK)
    try:
        yield server
    finally:
        await server.stop()


async def _run(on: Stage, server: PostgresServer, seconds: float, report: Report) -> None:
    [mine] = on.cluster.instances
    await upgrade(server.url_of(_OTHER))
    async with an_instance(on.cluster, 1) as stranger:
        stranger.postgres.target = postgres_target(server)
        await stranger.restart(_OTHER)
        await _compare(on, mine, stranger, seconds, report)


async def _compare(on: Stage, mine: Instance, stranger: Instance, seconds: float, report: Report) -> None:
    sides = [on.clients(_LOAD, [mine]), on.clients(_LOAD, [stranger], seed=12, epoch=1)]
    for side in sides:
        await side.fill()
    for side in sides:
        side.start()
    await asyncio.sleep(seconds)
    for side in sides:
        await side.stop()
    report.at_least("reads of both", sum(len(side.history.reads) for side in sides), int(_READS_PER_S * seconds))
    for epoch, name in enumerate(("first", "second")):
        _judge(f"{name} database", sides[epoch], epoch, report)


def _judge(name: str, side: Workload, epoch: int, report: Report) -> None:
    history = side.history
    foreign = [read for read in history.reads if read.version is not None and read.epoch_order != epoch]
    report.none(f"foreign products, {name}", foreign)
    report.no_stale_reads(name, history.reads, history.writes)
    report.tell(f"hits (none are promised), {name}, percent", hits(history.reads))
    report.none(f"requests not served, {name}", history.failures)
    taken = [returned - called for _, _, called, returned in side.latencies]
    report.seconds_of_writes(f", {name}", taken, _WRITE_BUDGET_S)

"""Three services behind PgBouncer in transaction mode, under load: no read is older than an acknowledged write.

PgBouncer is restarted; connections to the server are cut at COMMIT, before it arrives and when its answer comes; and PgBouncer
is pointed at another server between two steps of an audit.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from app.private_servers import PostgresServer
from tests.harness.cluster import Cluster, Instance, larder, postgres_target
from tests.harness.pgbouncer import HOST, PgBouncer, prepare_role, start_pgbouncer
from tests.harness.proxy import Proxy, Watch
from tests.harness.standby import Standby, copy_server, until_level
from tests.harness.workload import Load
from tests.outages.stage import Stage, open_stage

pytestmark = [pytest.mark.alone, pytest.mark.slow]

log = logging.getLogger(__name__)

_BUSY = Load(readers=24, reader_pause_s=0.006, writers=6, writer_pause_s=0.05)
_AWAY_S = 1.0
_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%rivals AS MATERIALIZED%'"
_CHANGED = "the database changed between two steps of an audit"
_PATIENCE_S = 30.0


@dataclass(slots=True)
class Cuts:
    """Cuts connections from PgBouncer to the server at COMMIT."""

    wanted: str = ""
    """``before``: the next COMMIT does not arrive; ``after``: its answer does not."""
    before: int = 0
    after: int = 0

    def watch(self) -> "_Watch":
        return _Watch(self)


class _Watch(Watch):
    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts
        self._writes = False

    def sent(self, data: bytes) -> bool:
        if b"BEGIN" in data or b"pg_settings" in data:
            # Neither an audit's, nor that of a connection that compares its parameters.
            self._writes = b"BEGIN ISOLATION" not in data and b"pg_settings" not in data
        if self._cuts.wanted == "before" and self._writes and b"COMMIT\0" in data:
            self._cuts.wanted = ""
            self._cuts.before += 1
            return False
        return True

    def answered(self, data: bytes) -> bool:
        if self._cuts.wanted == "after" and self._writes and b"COMMIT\0" in data:
            self._cuts.wanted = ""
            self._cuts.after += 1
            return False
        return True


@dataclass(slots=True)
class Pooled:
    """A stage behind PgBouncer, and what came of it."""

    on: Stage
    pooler: PgBouncer
    cuts: Cuts
    opened: AsyncExitStack
    servers: list[Standby] = field(default_factory=list)
    restarts: int = 0
    reads: int = 0
    hits: int = 0

    @property
    def unknown(self) -> int:
        """Number of writes whose outcome was reported as unknown."""
        return self.on.history.counts["writes of unknown outcome"]

    async def in_front_of(self, server: PostgresServer) -> dict[str, object]:
        """Open a proxy that can cut; return where it is."""
        return await _in_front_of(server, self.cuts, self.opened)

    def judge(self) -> None:
        """Check the history so far, and count it."""
        assert self.on.judge() == []
        self.reads += len(self.on.history.reads)
        self.hits += sum(read.status == "hit" for read in self.on.history.reads)
        self.on.history.forget()

    def __str__(self) -> str:
        return (
            f"{self.restarts} restarts of PgBouncer, {self.cuts.before} connections cut before COMMIT arrived,"
            f" {self.cuts.after} when its answer came, {len(self.servers)} switches between two steps of an audit;"
            f" {self.reads} reads checked, {self.hits} of them hits; {self.unknown} writes of unknown outcome"
        )


async def _in_front_of(server: PostgresServer, cuts: Cuts, opened: AsyncExitStack) -> dict[str, object]:
    proxy = Proxy(postgres_target(server), cuts.watch)
    await proxy.open()
    opened.push_async_callback(proxy.aclose)
    return {"host": HOST, "port": proxy.port}


@asynccontextmanager
async def _behind_a_pooler(directory: Path, load: Load) -> AsyncIterator[Pooled]:
    """Start three services behind PgBouncer, which is behind a proxy that can cut."""
    async with AsyncExitStack() as opened:
        cuts = Cuts()
        poolers: list[PgBouncer] = []

        async def prepare(cluster: Cluster) -> None:
            await prepare_role(cluster.url)
            place = await _in_front_of(cluster.postgres, cuts, opened)
            poolers.append(await opened.enter_async_context(start_pgbouncer(directory / "pgbouncer", place)))

        def program(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
            command, settings = larder(instance, database)
            own = {"LARDER_DATABASE_URL": poolers[0].url(database), "LARDER_DATABASE_POOLER": "transaction"}
            return command, {**settings, **own}

        stage = await opened.enter_async_context(open_stage(directory, load, program=program, prepare=prepare))
        pooled = Pooled(stage, poolers[0], cuts, opened)
        try:
            yield pooled
        finally:
            for server in pooled.servers:
                await server.stop()


async def _restart(behind: Pooled, *, kill: bool) -> None:
    """Take PgBouncer away for a second, under load."""
    with behind.on.log.on("pooler-away", "postgres"):
        await (behind.pooler.kill() if kill else behind.pooler.stop())
        await asyncio.sleep(_AWAY_S)  # the fault's length
        await behind.pooler.restart()
        await behind.on.cluster.until_trusted()
    behind.restarts += 1


async def _cut(behind: Pooled, where: str) -> None:
    """Cut the connection of the next COMMIT, under load, until a write's outcome is unknown: a COMMIT may change nothing."""
    before = behind.unknown
    with behind.on.log.on(f"cut-{where}-commit", "postgres"):
        async with asyncio.timeout(_PATIENCE_S):
            while behind.unknown == before:
                behind.cuts.wanted = where
                await _until(lambda: not behind.cuts.wanted)
                await behind.on.cluster.until_trusted()


async def _switch(behind: Pooled, directory: Path) -> None:
    """Point PgBouncer at a promoted standby while an audit's announcement is under way. Only readers may run."""
    cluster = behind.on.cluster
    standby = await copy_server(cluster.postgres, directory / f"standby-{len(behind.servers)}", "larder", streaming=True)
    behind.servers.append(standby)
    await standby.start()
    await until_level(cluster.postgres, standby)
    async with await psycopg.AsyncConnection.connect(standby.url, autocommit=True) as session:
        await session.execute("SELECT pg_promote()")
    place = await behind.in_front_of(standby)
    said = [_said(instance) for instance in cluster.instances]
    with behind.on.log.on("switch", "postgres"):
        async with await cluster.session() as hand:
            await hand.execute("BEGIN")
            await hand.execute("SELECT FROM cache_audits FOR UPDATE")
            await _until_row(cluster, _WAITS)
            await behind.pooler.point_at(place)
            await hand.execute("ROLLBACK")
        await _until(lambda: any(_said(one) > before for one, before in zip(cluster.instances, said, strict=True)))
        cluster.postgres = standby
        await cluster.until_trusted()


def _said(instance: Instance) -> int:
    return instance.log.read_text(errors="replace").count(_CHANGED)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def _until_row(cluster: Cluster, statement: str) -> None:
    async with asyncio.timeout(_PATIENCE_S), await cluster.session() as session:
        while await (await session.execute(statement.encode())).fetchone() == (0,):
            await asyncio.sleep(0.01)


async def _read_until(behind: Pooled, reads: int) -> None:
    """Wait for so many reads, half of them hits: a fast machine does the reads while the cache is still cold."""
    async with asyncio.timeout(4 * _PATIENCE_S):
        while len(behind.on.history.reads) < reads or 2 * sum(read.status == "hit" for read in behind.on.history.reads) < reads:
            behind.on.workload.check_alive()
            await asyncio.sleep(0.05)


async def test_outages_of_a_pooler(outage_directory: Path) -> None:
    """A restart, two cuts at COMMIT and a switch between two steps of an audit; afterwards 2,500 hits are checked, too."""
    async with _behind_a_pooler(outage_directory, _BUSY) as behind:
        behind.on.workload.start()
        await _restart(behind, kill=True)
        for where in ("before", "after"):
            await _cut(behind, where)
        await behind.on.workload.stop()
        behind.judge()
        await _switch(behind, outage_directory)
        behind.on.workload.start()
        await _read_until(behind, 5_000)
        await behind.on.workload.stop()
        behind.judge()
        log.info("%s", behind)
        assert behind.unknown >= 2
        assert behind.hits >= 2_500


@pytest.mark.long
async def test_many_outages_of_a_pooler(outage_directory: Path) -> None:
    """Ten restarts, ten switches and forty cuts: at least 200,000 reads, 100,000 of them hits, none in the past."""
    async with _behind_a_pooler(outage_directory, _BUSY) as behind:
        for number in range(10):
            behind.on.workload.start()
            await _restart(behind, kill=number % 2 == 0)
            for where in ("before", "after", "before", "after"):
                await _cut(behind, where)
            await behind.on.workload.stop()
            behind.judge()
            await _switch(behind, outage_directory)
            behind.on.workload.start()
            await _read_until(behind, 20_000)
            await behind.on.workload.stop()
            behind.judge()
            log.info("%s", behind)
        assert behind.reads >= 200_000
        assert behind.hits >= 100_000
        assert behind.unknown >= 40

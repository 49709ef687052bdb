"""Three nodes of Patroni under load: no read is older than an acknowledged write, and the services find each primary.

Two services name all nodes in their URL, the third goes through HAProxy.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from app.postgres.migrations import upgrade
from tests.harness.cluster import PROBE, Cluster, Instance, larder
from tests.harness.patroni import TTL_S, EtcdLate, PatroniCluster, missing_programs, start_patroni
from tests.harness.workload import Load
from tests.outages.stage import Stage, open_stage

pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()) and "CI" not in os.environ, reason=f"not installed: {', '.join(missing_programs())}"
    ),
]

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # the harness asks Patroni ten times a second

KINDS = ("switchover", "killed", "paused")
_BUSY = Load(readers=16, reader_pause_s=0.008, writers=4, writer_pause_s=0.08)
_ROUNDS = 30
_READS = 7_000
"""Reads that are checked for each change of the primary, at least."""
_BACK_S = 60.0
"""When hits have to be back after a new primary is there, on a slow machine."""


@dataclass(slots=True)
class Figures:
    """What was counted and timed in the changes of the primary."""

    kinds: dict[str, int] = field(default_factory=dict)
    back_s: list[float] = field(default_factory=list)
    """Seconds from the moment when a new primary was named to hits on every instance."""
    reads: int = 0
    hits: int = 0

    def __str__(self) -> str:
        times = sorted(self.back_s)
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.kinds.items())
        return (
            f"{kinds}: {self.reads} reads checked, {self.hits} of them hits; hits on every instance again"
            f" {times[len(times) // 2]:.1f} s (median), {times[-1]:.1f} s (slowest) after the new primary was named"
        )


@asynccontextmanager
async def _stage(directory: Path) -> AsyncIterator[tuple[Stage, PatroniCluster]]:
    """Start three services on three nodes."""
    async with AsyncExitStack() as opened:
        nodes = await opened.enter_async_context(start_patroni(directory / "patroni"))

        async def prepare(cluster: Cluster) -> None:
            url = nodes.url("postgres")
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as session:
                await session.execute("CREATE DATABASE larder")
            await upgrade(nodes.url(cluster.database))
            async with await psycopg.AsyncConnection.connect(nodes.url(cluster.database), autocommit=True) as session:
                await session.execute("INSERT INTO products (id, name, price_cents) VALUES (%s, 'e0 probe', 0)", [PROBE])

        def program(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
            command, settings = larder(instance, database)
            url = nodes.proxied_url(database) if instance.number == 2 else nodes.url(database)
            return command, {**settings, "LARDER_DATABASE_URL": url}

        stage = await opened.enter_async_context(open_stage(directory, _BUSY, program=program, prepare=prepare))
        yield stage, nodes


async def _change_primary(on: Stage, nodes: PatroniCluster, kind: str, figures: Figures) -> None:
    """Take the primary away, wait until hits are back, and let it follow the new one."""
    old = await nodes.primary()
    with on.log.on(f"primary-{kind}", "postgres"):
        if kind == "switchover":
            await nodes.switch_over()
        elif kind == "killed":
            await old.kill()
        else:
            old.pause()
        began = time.monotonic()
        await nodes.primary(other_than=old)
        named = time.monotonic()
        if kind == "paused":
            await asyncio.sleep(max(0.0, began + TTL_S + 5 - named))  # it is certainly past its time when it goes on
            old.resume()
        await on.cluster.until_trusted(_BACK_S)
        figures.back_s.append(time.monotonic() - named)
    if kind == "killed":
        await old.start()
    await nodes.until_whole()
    figures.kinds[kind] = figures.kinds.get(kind, 0) + 1


async def _round(on: Stage, nodes: PatroniCluster, kind: str, figures: Figures) -> None:
    """Change the primary under load; no read is in the past."""
    on.workload.start()
    await _change_primary(on, nodes, kind, figures)
    async with asyncio.timeout(_BACK_S):
        while len(on.history.reads) < _READS:
            on.workload.check_alive()
            await asyncio.sleep(0.05)
    await on.workload.stop()
    assert on.judge() == []
    figures.reads += len(on.history.reads)
    figures.hits += sum(read.status == "hit" for read in on.history.reads)
    on.history.forget()
    log.info("%s", figures)


async def test_a_switchover(outage_directory: Path) -> None:
    """No read is in the past while the primary hands over to a standby, and hits come back."""
    figures = Figures()
    async with AsyncExitStack() as opened:
        try:
            on, nodes = await opened.enter_async_context(_stage(outage_directory))
        except EtcdLate as late:
            pytest.skip(str(late))
        await _round(on, nodes, "switchover", figures)
    assert figures.hits > figures.reads / 3


@pytest.mark.long
async def test_many_changes_of_the_primary(outage_directory: Path) -> None:
    """Switchovers, killed primaries and primaries that hang until their time is over, ten of each: no read is in the past."""
    figures = Figures()
    async with _stage(outage_directory) as (on, nodes):
        for number in range(_ROUNDS):
            await _round(on, nodes, KINDS[number % len(KINDS)], figures)
    assert set(figures.kinds) == set(KINDS)
    assert figures.hits > figures.reads / 3

"""Failovers by real sentinels under load: no read is older than an acknowledged write, no request fails, and hits come back."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.private_servers import RedisServer
from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S, Instance, larder
from tests.harness.sentinels import DOWN_AFTER_S, Sentinels, start_divisible_sentinels, start_sentinels
from tests.harness.workload import Load
from tests.outages.stage import Stage, open_stage

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.alone, pytest.mark.slow]

KINDS = ("stopped", "killed", "paused")
PAUSE_S = 5.0
CUT_S = 4.0
"""How long services are cut off from the master."""
_READ_ON_S = 60.0
_BUSY = Load(readers=24, reader_pause_s=0.006, writers=6, writer_pause_s=0.06)
ELECTION_S = 1.5
BACK_S = DOWN_AFTER_S + ELECTION_S + FENCE_TTL_S + 2 * AUDIT_INTERVAL_S
"""When hits should be back after a master is lost. The tests give a slow machine more."""
PATIENCE = 4.0


@dataclass(slots=True)
class Figures:
    """What failovers came to."""

    back_s: list[float] = field(default_factory=list)
    """Seconds from the loss of the master to hits on every instance."""
    after_s: list[float] = field(default_factory=list)
    """Seconds from the naming of the new master to the same. The election may need a second try, ten seconds later."""
    reads: int = 0
    hits: int = 0

    def __str__(self) -> str:
        times = sorted(self.back_s)
        return (
            f"{len(times)} outages, {self.reads} reads checked, {self.hits} of them hits; hits on every instance again after"
            f" {times[len(times) // 2]:.1f} s (median), {times[-1]:.1f} s (slowest)"
        )


@asynccontextmanager
async def _stage(directory: Path, load: Load, *, divisible: bool = False) -> AsyncIterator[tuple[Stage, Sentinels]]:
    """Start three services on a Redis with sentinels."""
    redis_directory = directory / "sentinels"
    redis_directory.mkdir()
    async with (start_divisible_sentinels if divisible else start_sentinels)(redis_directory) as sentinels:

        def program(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
            command, settings = larder(instance, database)
            user = f"service{instance.number}" if divisible else ""
            own = {"LARDER_REDIS_URL": sentinels.url_of(user), "LARDER_SENTINEL_PASSWORD": sentinels.password}
            return command, {**settings, **own}

        async with open_stage(directory, load, program=program) as stage:
            yield stage, sentinels


async def _fail_over(on: Stage, sentinels: Sentinels, kind: str, figures: Figures) -> None:
    """Take the master away, and wait until hits are back."""
    master = await sentinels.master()
    with on.log.on(f"master-{kind}", "redis"):
        began = time.monotonic()
        resumed = asyncio.create_task(_lose(sentinels, master, kind))
        await sentinels.other_master(master)
        named = time.monotonic()
        await on.cluster.until_trusted(PATIENCE * BACK_S)
        figures.back_s.append(time.monotonic() - began)
        figures.after_s.append(time.monotonic() - named)
        await resumed


async def _lose(sentinels: Sentinels, master: RedisServer, kind: str) -> None:
    if kind == "paused":
        master.pause()
        # The pause outlasts the election, even one that fails at first: the next one begins ten seconds later, and a master
        # that is back by then stays the master.
        await asyncio.gather(asyncio.sleep(PAUSE_S), sentinels.other_master(master))
        master.resume()
    elif kind == "killed":
        await master.kill()
    else:
        os.kill(master.pid, signal.SIGTERM)


async def _read_on(on: Stage, reads: int) -> None:
    """Wait until the history has so many reads. Raises the error of a client that failed, and ``TimeoutError``."""
    async with asyncio.timeout(_READ_ON_S):
        while len(on.history.reads) < reads:
            on.workload.check_alive()
            await asyncio.sleep(0.1)


def _judge(on: Stage, figures: Figures) -> None:
    """Check the history so far, and count it."""
    assert on.judge() == []
    figures.reads += len(on.history.reads)
    figures.hits += sum(read.status == "hit" for read in on.history.reads)
    on.history.forget()


async def test_a_failover_under_load(outage_directory: Path) -> None:
    """A killed master: no read is in the past, and most of 5,000 reads after the failover are hits on the promoted replica."""
    figures = Figures()
    async with _stage(outage_directory, _BUSY) as (on, sentinels):
        on.workload.start()
        await _fail_over(on, sentinels, "killed", figures)
        await _read_on(on, len(on.history.reads) + 5_000)
        await on.workload.stop()
        _judge(on, figures)
    log.info("%s", figures)
    assert figures.hits > 2_500


@pytest.mark.long
async def test_many_failovers_under_load(outage_directory: Path) -> None:
    """Masters that are stopped, killed and paused, 21 in all: at least 200,000 reads, half of them hits, none in the past."""
    figures = Figures()
    async with _stage(outage_directory, _BUSY) as (on, sentinels):
        for number in range(21):
            kind = KINDS[number % len(KINDS)]
            on.workload.start()
            old = await sentinels.master()
            await _fail_over(on, sentinels, kind, figures)
            if kind != "paused":
                await old.restart()  # it takes itself for the master until the sentinels find it
            await sentinels.until_replicated()
            await _read_on(on, 10_000)
            await on.workload.stop()
            _judge(on, figures)
            log.info("%s; %s", kind, figures)
    assert len(figures.back_s) >= 20
    assert figures.reads >= 200_000
    assert figures.hits > figures.reads / 2
    log.info("after the new master was named: %s s", sorted(round(after_s, 1) for after_s in figures.after_s))
    assert sorted(figures.after_s)[int(0.95 * len(figures.after_s))] <= BACK_S, figures


@pytest.mark.long
async def test_services_cut_off_from_the_master(outage_directory: Path) -> None:
    """One or two of three services reach no data server for a while, with and without a failover meanwhile.

    They have no hits until they are back, the others go on having hits, and no read is in the past.
    """
    figures = Figures()
    by_the_others = 0
    async with _stage(outage_directory, _BUSY, divisible=True) as (on, sentinels):
        for number in range(12):
            cut = {number % 3, (number + number % 2) % 3}
            others = [instance for instance in on.cluster.instances if instance.number not in cut]
            fails_over = number % 4 == 3
            on.workload.start()
            old = await sentinels.master()
            with on.log.on("cut-off-from-the-master", "redis"):
                sentinels.cut |= cut
                await asyncio.sleep(DOWN_AFTER_S)
                began = time.monotonic()
                if fails_over:
                    await old.kill()
                    await sentinels.other_master(old)
                await on.cluster.until_trusted(PATIENCE * BACK_S, others)
                await asyncio.sleep(CUT_S)
                reads = [read for read in on.history.reads if read.called > began and read.status == "hit"]
                sentinels.cut.clear()
                healed = time.monotonic()
                await on.cluster.until_trusted(PATIENCE * BACK_S)
                figures.back_s.append(time.monotonic() - healed)
            if fails_over:
                await old.restart()
            await sentinels.until_replicated()
            await _read_on(on, 10_000)
            await on.workload.stop()
            assert {read.instance for read in reads} == {instance.number for instance in others}
            by_the_others += len(reads)
            _judge(on, figures)
            log.info("cut off %s%s; %s", sorted(cut), ", and a failover" if fails_over else "", figures)
    log.info("%d hits by the services that were not cut off, meanwhile", by_the_others)
    assert figures.reads >= 100_000

"""A cluster of three masters and three replicas under load: no read is older than an acknowledged write."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typing_extensions import override

from app.cache.partitions import Partitions
from app.private_servers import RedisServer
from tests.harness.cluster import AUDIT_INTERVAL_S, CACHE_NAME, FENCE_TTL_S, PROBE, Instance, larder
from tests.harness.redis_cluster import NODE_TIMEOUT_S, RedisCluster, start_redis_cluster
from tests.harness.workload import Load
from tests.outages.release import Release
from tests.outages.scenarios.namespace_roll import deploy
from tests.outages.scenarios.report import Report
from tests.outages.stage import Stage, open_stage

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.guarantee("G1")]

PARTITIONS = Partitions(CACHE_NAME, 64)
_BUSY = Load(readers=24, reader_pause_s=0.006, writers=6, writer_pause_s=0.06)
ELECTION_S = 1.5
BACK_S = NODE_TIMEOUT_S + ELECTION_S + FENCE_TTL_S + 2 * AUDIT_INTERVAL_S
"""When hits should be back after a master is lost. The tests give a slow machine more."""
PATIENCE = 4.0
PAUSE_S = 5.0


@dataclass(slots=True)
class Scene:
    """The services, the cluster, and what was counted so far."""

    on: Stage
    nodes: RedisCluster
    back_s: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from each fault to a hit on every instance, of a product that it concerned, by kind."""
    reads: int = 0
    hits: int = 0

    def __str__(self) -> str:
        times = "; ".join(
            f"{len(found)} {kind}: {sorted(found)[len(found) // 2]:.1f} s (median), {max(found):.1f} s (slowest)"
            for kind, found in self.back_s.items()
        )
        return f"{self.reads} reads checked, {self.hits} of them hits; hits again after {times}"

    @property
    def slot(self) -> int:
        """The hash slot of the probe, by whose hits the services are judged."""
        return PARTITIONS.slots[PARTITIONS.of(PROBE)]

    async def run(self, kind: str, fault: Callable[["Scene"], Awaitable[None]]) -> None:
        """Do something to the cluster, and wait until hits are back."""
        with self.on.log.on(kind, "redis"):
            began = time.monotonic()
            await fault(self)
            await self.on.cluster.until_trusted(PATIENCE * BACK_S)
            self.back_s.setdefault(kind, []).append(time.monotonic() - began)

    async def read_on(self, wanted: int) -> None:
        """Wait until so many more reads were made."""
        wanted += len(self.on.history.reads)
        async with asyncio.timeout(90):
            while len(self.on.history.reads) < wanted:
                await asyncio.sleep(0.1)
                self.on.workload.check_alive()

    def judge(self) -> None:
        """Check the history so far, and count it. The clients are at rest."""
        assert self.on.judge() == []
        self.reads += len(self.on.history.reads)
        self.hits += sum(read.status == "hit" for read in self.on.history.reads)
        self.on.history.forget()

    async def another(self, slot: int) -> RedisServer:
        """Return a master that has not this slot."""
        owner = await self.nodes.owner(slot)
        for _, _, master, *_ in await self.nodes.ask(owner, "CLUSTER", "SLOTS"):
            if int(master[1]) != owner.port:
                return next(server for server in self.nodes.servers if server.port == int(master[1]))
        raise LookupError("there is one master only")


@asynccontextmanager
async def _scene(directory: Path) -> AsyncIterator[Scene]:
    """Start three services on a cluster of three masters, each with a replica."""
    redis_directory = directory / "nodes"
    redis_directory.mkdir()
    async with start_redis_cluster(redis_directory, replicas=True) as nodes:

        def program(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
            command, settings = larder(instance, database)
            return command, {**settings, "LARDER_REDIS_URL": nodes.url, "LARDER_CACHE_PARTITIONS": str(PARTITIONS.number)}

        async with open_stage(directory, _BUSY, program=program) as stage:
            yield Scene(stage, nodes)


async def killed(scene: Scene) -> None:
    """Kill the probe's master; its replica takes over."""
    lost = await scene.nodes.owner(scene.slot)
    witness = next(server for server in scene.nodes.servers if server is not lost)
    await lost.kill()
    await scene.nodes.until(lambda: _is_not(scene, lost, witness))


async def paused(scene: Scene) -> None:
    """Stop the probe's master for longer than an election, and let it go on: for a moment it takes itself for the master."""
    lost = await scene.nodes.owner(scene.slot)
    witness = next(server for server in scene.nodes.servers if server is not lost)
    lost.pause()
    await asyncio.sleep(PAUSE_S)  # the fault's length: longer than an election
    lost.resume()
    await scene.nodes.until(lambda: _is_not(scene, lost, witness))


async def handed_over(scene: Scene) -> None:
    """Let a replica of the probe's master take over by ``CLUSTER FAILOVER``."""
    old = await scene.nodes.owner(scene.slot)
    await scene.nodes.ask(await scene.nodes.replica_of(old), "CLUSTER", "FAILOVER")
    await scene.nodes.until(lambda: _is_not(scene, old, old))


async def moved_onto_copies(scene: Scene) -> None:
    """Move partitions key by key to a node on which an earlier move, which broke off, has left copies."""
    for key in (PROBE, scene.on.workload.hot[0]):
        slot = PARTITIONS.slots[PARTITIONS.of(key)]
        await _move_onto_copies(scene, slot, await scene.another(slot))


async def moved_and_back(scene: Scene) -> None:
    """Move a partition to another node, onto copies that were left, and back, within the life of its fence."""
    slot = PARTITIONS.slots[PARTITIONS.of(scene.on.workload.hot[0])]
    home = await scene.nodes.owner(slot)
    await _move_onto_copies(scene, slot, await scene.another(slot))
    await scene.nodes.move(slot, home)


async def _move_onto_copies(scene: Scene, slot: int, target: RedisServer) -> None:
    """Leave copies of a partition's slots on a node; let clients write what the copies lack; evict the slots, and move."""
    source = await scene.nodes.begin_move(slot, target)
    found = await scene.nodes.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1_000)
    slots = [name for name in found if name.startswith(b"wtc:{")]
    await scene.nodes.carry(source, target, slots, copy=True)
    await scene.nodes.break_off(slot, source, target)
    await scene.read_on(500)
    await scene.nodes.begin_move(slot, target)
    for name in slots:
        await scene.nodes.ask(source, "UNLINK", name)  # and nobody can fill it while the slot is open
    await scene.nodes.end_move(slot, source, target)


async def _is_not(scene: Scene, lost: RedisServer, asked: RedisServer) -> bool:
    return await scene.nodes.owner(scene.slot, asked) is not lost


async def test_a_failover_and_a_move_under_load(outage_directory: Path) -> None:
    """A master is killed, then partitions move onto copies that were left: no read of either is in the past, most are hits."""
    async with _scene(outage_directory) as scene:
        for kind, fault in (("node-killed", killed), ("moved-onto-copies", moved_onto_copies)):
            scene.on.workload.start()
            await scene.run(kind, fault)
            await scene.read_on(5_000)
            await scene.on.workload.stop()
            scene.judge()
        log.info("%s", scene)
        assert scene.hits > 5_000


@pytest.mark.long
async def test_many_outages_of_a_cluster_under_load(outage_directory: Path) -> None:
    """Twenty of each kind of outage and move: at least 200,000 reads, half of them hits, none in the past."""
    faults = (killed, paused, handed_over, moved_onto_copies, moved_and_back)
    async with _scene(outage_directory) as scene:
        for number in range(20 * len(faults)):
            fault = faults[number % len(faults)]
            lost = await scene.nodes.owner(scene.slot)
            scene.on.workload.start()
            await scene.run(fault.__name__, fault)
            if fault is killed:
                await lost.restart()
            await scene.nodes.until(scene.nodes.is_whole)
            await scene.read_on(2_000)
            await scene.on.workload.stop()
            scene.judge()
            log.info("%s; %s", fault.__name__, scene)
    assert scene.reads >= 200_000
    assert scene.hits > scene.reads / 2


@dataclass(frozen=True, slots=True)
class OnCluster(Release):
    """This release, on a cluster of Redis."""

    url: str = ""

    @override
    def program(self, instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        command, settings = Release.program(self, instance, database)
        return command, {**settings, "LARDER_REDIS_URL": self.url, "LARDER_CACHE_PARTITIONS": str(PARTITIONS.number)}


@pytest.mark.long
async def test_rolls_from_one_redis_to_a_cluster(outage_directory: Path) -> None:
    """In ten rolling deploys from one Redis to a cluster no read is in the past, and the old instances have hits to the end."""
    for number in range(10):
        directory, report = outage_directory / str(number), Report()
        (directory / "nodes").mkdir(parents=True)
        async with start_redis_cluster(directory / "nodes") as nodes:
            await deploy(directory, 18, report, Release(), OnCluster(url=nodes.url))
        log.info("roll %d\n%s", number, report.table())
        assert not report.broken, report.table()

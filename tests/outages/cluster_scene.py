"""Three services on a Redis cluster with replicas, what is done to it, and the figures of that."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.cache.partitions import Partitions
from app.private_servers import RedisServer
from tests.harness.cluster import AUDIT_INTERVAL_S, CACHE_NAME, FENCE_TTL_S, PROBE, Instance, larder
from tests.harness.history import SeenRead
from tests.harness.redis_cluster import NODE_TIMEOUT_S, RedisCluster, start_redis_cluster
from tests.harness.workload import Load
from tests.outages.scenarios.report import hits, percentile
from tests.outages.stage import Stage, open_stage

PARTITIONS = Partitions(CACHE_NAME, 64)
_BUSY = Load(readers=24, reader_pause_s=0.006, writers=6, writer_pause_s=0.06)
_ELECTION_S = 1.5
MOVED_S = FENCE_TTL_S + 2 * AUDIT_INTERVAL_S
"""When hits should be back after a partition has moved."""
BACK_S = NODE_TIMEOUT_S + _ELECTION_S + MOVED_S
"""When hits should be back after a master was lost."""
_PATIENCE = 4.0
"""How much longer a busy machine may take."""
_READ_ON_S = 90.0

Fault = Callable[["Scene"], AbstractAsyncContextManager[float]]
"""Does something to the cluster, gives the moment from which hits are awaited, and repairs what it broke."""


@dataclass(slots=True)
class Figures:
    """What the faults of one kind came to."""

    back_s: list[float] = field(default_factory=list)
    """Seconds from the moment that the fault gave to a hit on every instance, of a product that it concerned."""
    reads: int = 0
    hits: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    times_s: dict[str, list[float]] = field(default_factory=dict)
    """Further times, by what they are."""
    before: list[SeenRead] = field(default_factory=list)
    """Reads of products on nodes that were not lost, before a node was lost."""
    meanwhile: list[SeenRead] = field(default_factory=list)
    """The same, until hits were back on the lost node's partitions."""

    def note_time(self, what: str, seconds: float) -> None:
        """Add a time."""
        self.times_s.setdefault(what, []).append(seconds)

    def __str__(self) -> str:
        lines = [
            f"{len(self.back_s)} times; {self.reads} reads checked, {self.hits} of them hits",
            f"hits again after {_spread(self.back_s)}",
            *(f"{what}: {_spread(found)}" for what, found in self.times_s.items()),
            *(f"{what}: {number}" for what, number in self.notes.items()),
        ]
        if self.before:
            lines.append(f"products of other nodes before, {_quality(self.before)}; meanwhile, {_quality(self.meanwhile)}")
        return "\n  ".join(lines)


@dataclass(slots=True)
class Scene:
    """The services, the cluster, and what was counted so far."""

    on: Stage
    nodes: RedisCluster
    figures: Figures = field(default_factory=Figures)

    @property
    def slot(self) -> int:
        """The hash slot of the probe, by whose hits the services are judged."""
        return slot_of(PROBE)

    @property
    def times(self) -> int:
        """How many faults there were so far."""
        return len(self.figures.back_s)

    async def run(self, kind: str, fault: Fault, *, bound_s: float, a_node: bool = False, reads: int = 3_000) -> None:
        """Do something to the cluster while clients read and write, wait until hits are back, and judge what was read.

        Args:
            kind: the fault's name in the log of faults.
            fault: what is done.
            bound_s: when hits should be back.
            a_node: whether the probe's master is lost. Then the products of other nodes are looked at, too.
            reads: the fewest reads that are made after hits are back.
        """
        owners, lost = await self.nodes.owners(), await self.nodes.owner(self.slot)
        elsewhere = {key for key in self.keys if owners(slot_of(key)) is not lost}
        self.on.workload.start()
        await self.read_on(1_000)
        began = time.monotonic()
        with self.on.log.on(kind, "redis"):
            async with fault(self) as since:
                await self.on.cluster.until_trusted(_PATIENCE * bound_s)
                back, wanted = time.monotonic(), len(self.on.history.reads) + reads
            self.figures.back_s.append(back - since)
            await self.nodes.until(self.nodes.is_whole, 60)
        await self._until_read(wanted)
        await self.on.workload.stop()
        if a_node:
            others = [read for read in self.on.history.reads if read.kind == "read" and read.key in elsewhere]
            self.figures.before += [read for read in others if read.called < began]
            self.figures.meanwhile += [read for read in others if began <= read.called < back]
        self._judge()

    @property
    def keys(self) -> Sequence[str]:
        """The products that clients read and write."""
        return [*self.on.workload.hot, *self.on.workload.cold]

    async def read_on(self, more: int) -> None:
        """Wait until so many more reads were made."""
        await self._until_read(len(self.on.history.reads) + more)

    async def _until_read(self, wanted: int) -> None:
        async with asyncio.timeout(_READ_ON_S):
            while len(self.on.history.reads) < wanted:
                await asyncio.sleep(0.1)
                self.on.workload.check_alive()

    async def has_lost(self, lost: RedisServer, asked: RedisServer) -> bool:
        """Return whether the probe's partition is no longer a node's, as another node says."""
        return await self.nodes.owner(self.slot, asked) is not lost

    def _judge(self) -> None:
        """Check the history so far, and count it. The clients are at rest."""
        violations = self.on.judge()
        assert not violations, "\n".join(violations)
        self.figures.reads += len(self.on.history.reads)
        self.figures.hits += sum(read.status == "hit" for read in self.on.history.reads)
        self.on.history.forget()


@asynccontextmanager
async def open_scene(directory: Path, *, divisible: bool = False) -> AsyncIterator[Scene]:
    """Start three services on a cluster of three masters, each with a replica.

    With ``divisible`` the ways between nodes, and from services to nodes, can be cut.
    """
    redis_directory = directory / "nodes"
    redis_directory.mkdir()
    async with start_redis_cluster(redis_directory, replicas=True, divisible=divisible) as nodes:

        def program(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
            command, settings = larder(instance, database)
            url = nodes.url_of(instance.number) if divisible else nodes.url
            return command, {**settings, "LARDER_REDIS_URL": url, "LARDER_CACHE_PARTITIONS": str(PARTITIONS.number)}

        async with open_stage(directory, _BUSY, program=program) as stage:
            yield Scene(stage, nodes)


def slot_of(key: str) -> int:
    """Return the hash slot of a product's partition."""
    return PARTITIONS.slots[PARTITIONS.of(key)]


def _spread(seconds: Sequence[float]) -> str:
    middle, late = percentile(seconds, 50), percentile(seconds, 95)
    return f"{middle:.2f} s (median), {late:.2f} s (p95), {max(seconds):.2f} s (slowest), {len(seconds)} times"


def _quality(reads: Sequence[SeenRead]) -> str:
    late = percentile((read.returned - read.called for read in reads), 99)
    return f"{hits(reads):.1f} % of {len(reads)} reads were hits, p99 {1000 * late:.0f} ms"

"""A running cluster with clients that have not begun yet, with which tests and scenarios start."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.harness.cluster import Cluster, Instance, Prepare, Program, larder, start_cluster
from tests.harness.faultlog import FaultLog
from tests.harness.history import HAND_BOUNDS, History
from tests.harness.workload import Load, Workload

_SEED = 7


@dataclass(frozen=True, slots=True)
class Stage:
    """A running cluster whose cache is trusted, with clients that have not begun yet."""

    cluster: Cluster
    log: FaultLog
    history: History
    workload: Workload

    def clients(self, load: Load, instances: Sequence[Instance], *, seed: int = 11, epoch: int = 0) -> Workload:
        """Return further clients, of some instances, with a history of their own."""
        history = History(self.log, HAND_BOUNDS)
        return Workload(self.cluster, history, self.log, load, Random(seed), instances=instances, epoch=epoch)

    def judge(self) -> list[str]:
        """Return the first violations, and the excerpt of the first one."""
        judgement = self.history.judge()
        return judgement.violations and [*judgement.violations[:5], *judgement.excerpt]


@asynccontextmanager
async def open_stage(
    directory: Path,
    load: Load,
    *,
    instances: int = 3,
    program: Program = larder,
    revision: str = "head",
    prepare: Prepare | None = None,
) -> AsyncIterator[Stage]:
    """Start a cluster in ``directory``, create the products of the load, and wait until the cache is trusted."""
    started = start_cluster(directory, instances=instances, program=program, revision=revision, prepare=prepare)
    async with started as cluster:
        log = FaultLog()
        history = History(log, HAND_BOUNDS)
        workload = Workload(cluster, history, log, load, Random(_SEED))
        await workload.fill()
        await cluster.until_trusted()
        yield Stage(cluster, log, history, workload)

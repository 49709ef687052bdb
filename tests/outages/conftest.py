"""A cluster of its own for each test, and clients on it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol
from uuid import uuid4

import pytest

from tests.outages.cluster import Cluster, start_cluster
from tests.outages.faultlog import FaultLog
from tests.outages.history import History
from tests.outages.run import HAND_BOUNDS
from tests.outages.workload import Load, Workload


@dataclass(frozen=True, slots=True)
class Stage:
    """A running cluster that the cache is trusted on, with clients that have not begun yet."""

    cluster: Cluster
    log: FaultLog
    history: History
    workload: Workload

    def judge(self) -> list[str]:
        """Give every violation, and the excerpt of the first one."""
        judgement = self.history.judge()
        return judgement.violations and [*judgement.violations[:5], *judgement.excerpt]


class Stages(Protocol):
    def __call__(self, load: Load) -> AbstractAsyncContextManager[Stage]: ...


@pytest.fixture
def outage_directory(servers_directory: Path) -> Path:
    directory = servers_directory / f"outage-{uuid4().hex[:8]}"
    directory.mkdir()
    return directory


@pytest.fixture
def stage(outage_directory: Path) -> Stages:
    """Opens a stage under the load given."""

    @asynccontextmanager
    async def opened(load: Load) -> AsyncIterator[Stage]:
        chance = Random(7)
        async with start_cluster(outage_directory) as cluster:
            log = FaultLog()
            history = History(log, HAND_BOUNDS)
            workload = Workload(cluster, history, log, load, chance)
            await workload.fill()
            await cluster.until_trusted()
            yield Stage(cluster, log, history, workload)

    return opened

"""A cluster of three masters and three replicas under load: no read is older than an acknowledged write."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from typing_extensions import override

from tests.harness.cluster import Instance
from tests.harness.redis_cluster import start_redis_cluster
from tests.outages import cluster_faults as faults
from tests.outages.cluster_scene import BACK_S, MOVED_S, PARTITIONS, Fault, open_scene
from tests.outages.release import Release
from tests.outages.scenarios.namespace_roll import deploy
from tests.outages.scenarios.report import Report, hits

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.guarantee("G1")]

TIMES = 20
ROLLS = 10


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault, and when hits should be back."""

    fault: Fault
    bound_s: float
    a_node: bool = False
    """Whether the probe's master is lost, so that it matters what becomes of the other nodes' products."""
    divisible: bool = False


KINDS = {
    "moved-at-once": Kind(faults.moved_at_once, MOVED_S),
    "cut-off": Kind(faults.cut_off, BACK_S, divisible=True),
    "moved-and-back": Kind(faults.moved_and_back, MOVED_S),
    "killed": Kind(faults.killed, BACK_S, a_node=True),
    "paused": Kind(faults.paused, BACK_S, a_node=True),
    "handed-over": Kind(faults.handed_over, BACK_S),
    "moved-onto-copies": Kind(faults.moved_onto_copies, MOVED_S),
}


async def test_a_failover_and_a_move_under_load(outage_directory: Path) -> None:
    """A master is killed, then partitions move onto copies that were left: no read of either is in the past, most are hits."""
    async with open_scene(outage_directory) as scene:
        for name in ("killed", "moved-onto-copies"):
            kind = KINDS[name]
            await scene.run(name, kind.fault, bound_s=kind.bound_s, reads=5_000)
        log.info("%s", scene.figures)
        assert scene.figures.hits > 5_000


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
async def test_many_outages_of_a_cluster_under_load(outage_directory: Path, name: str) -> None:
    """Twenty outages or moves of one kind: at least 30,000 reads, half of them hits, none in the past.

    Hits of other nodes' products do not become rarer while a node is away.
    """
    kind = KINDS[name]
    async with open_scene(outage_directory, divisible=kind.divisible) as scene:
        figures = scene.figures
        for number in range(TIMES):
            await scene.run(name, kind.fault, bound_s=kind.bound_s, a_node=kind.a_node)
            log.info("%s %d: %.2f s", name, number, figures.back_s[-1])
    log.info("%s: %s\n  promised after %.1f s", name, figures, kind.bound_s)
    assert figures.reads >= 30_000
    assert figures.hits > figures.reads / 2
    if kind.a_node:
        assert hits(figures.meanwhile) > hits(figures.before) - 5


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
    for number in range(ROLLS):
        directory, report = outage_directory / str(number), Report()
        (directory / "nodes").mkdir(parents=True)
        async with start_redis_cluster(directory / "nodes") as nodes:
            await deploy(directory, 18, report, Release(), OnCluster(url=nodes.url))
        log.info("roll %d\n%s", number, report.table())
        assert not report.broken, report.table()

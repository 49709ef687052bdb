"""How soon hits are back after Redis was killed and came back empty, in simulated time: with one namespace, and with two."""

import asyncio
import random
from dataclasses import replace

import pytest
from typing_extensions import override

from app.cache.write_through import Status
from tests.fakes.redis import Data
from tests.limits import cache_config
from tests.simulation.runner import Play, Scenario, quiet, simulate
from tests.simulation.workload import Client

SHIPPED = replace(quiet(Scenario.of(random.Random(1))), hosts=("one", "two", "three"), config=cache_config())
AWAY_S = 0.3
"""The shortest time for which the outages kill a server: most of the old server's fence is then still to lapse."""
POLL_S = 0.02
HEALED = "ms until hits were back"


class Killed(Play):
    """Kills Redis once, and counts the milliseconds until every process hits every key."""

    @override
    async def play(self) -> None:
        world = self._world
        for host in self._scenario.hosts:
            world.start_process(host)
        await self._until_hits()
        await asyncio.sleep(2 * world.chance.random())
        world.master.down = True
        await asyncio.sleep(AWAY_S)
        world.master.restart(Data())
        world.master.down = False
        began = world.loop.time()
        await self._until_hits()
        world.history.counts[HEALED] = round(1_000 * (world.loop.time() - began))

    async def _until_hits(self) -> None:
        """Read every key of every process until it is a hit."""
        for process in self._world.processes.values():
            client = Client(self._world, process, self._scenario.keys, 0.0, 0.0)
            for key in self._scenario.keys:
                while (answer := await client.read(key)) is None or answer.status is not Status.HIT:
                    await asyncio.sleep(POLL_S)


@pytest.mark.guarantee("G4")
def test_second_namespace_does_not_delay_hits() -> None:
    """With two namespaces, hits are back as soon as with one: when the old fence has lapsed, and an interval later."""
    config = SHIPPED.config
    lapse_s = (config.fence_ttl_ms + config.settle_margin_ms) / 1_000 - AWAY_S
    bound_ms = 1_000 * (lapse_s + 1.4 * config.audit_interval_ms / 1_000)
    for keys in (("a",), ("a", "suppliers/a")):
        outcomes = [simulate(seed, scenario=replace(SHIPPED, keys=keys), play=Killed) for seed in range(1, 41)]
        assert [outcome.first() for outcome in outcomes if outcome.bad] == []
        assert max(outcome.counts[HEALED] for outcome in outcomes) <= bound_ms

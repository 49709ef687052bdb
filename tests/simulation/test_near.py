"""Random histories of processes that keep copies of slots, with every guard on and with one off."""

from dataclasses import replace

import pytest

from tests.fakes.near_store import NearMemoryStore
from tests.schedules import audits, takeovers, traffic, worlds
from tests.schedules.on_fakes import Schedule, play
from tests.schedules.stage import schedules_of
from tests.simulation.mutant_near import MUTANTS
from tests.simulation.mutants import CROWDED
from tests.simulation.parts import SHIPPED
from tests.simulation.runner import Scenario, simulate

EVICTED = replace(CROWDED, deeds=("evict_slot", "evict_fence", "pause_process"), deed_pause_s=0.1)
FAULTY = replace(CROWDED, redis_rate=0.05, think_s=0.002)


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("scenario", [None, CROWDED, EVICTED, FAULTY], ids=["any", "crowded", "evicted", "faulty"])
def test_copies_by_chance(scenario: Scenario | None) -> None:
    """No read of a copy is older than what was acknowledged before it began."""
    parts = replace(SHIPPED, store=NearMemoryStore)
    outcomes = [simulate(seed, parts, scenario=scenario) for seed in range(1, 4)]
    assert [outcome.first() for outcome in outcomes if outcome.bad] == []


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("name", MUTANTS)
def test_guard_that_is_off(name: str) -> None:
    """Each guard alone prevents a stale read."""
    parts = replace(SHIPPED, store=MUTANTS[name])
    scenario = FAULTY if name == "KeepsCopiesOverConnections" else CROWDED
    assert any(simulate(seed, parts, scenario=scenario).bad for seed in range(1, 41))


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("schedule", [s for module in (audits, takeovers, traffic, worlds) for s in schedules_of(module)])
def test_copies_on_a_schedule(schedule: Schedule) -> None:
    """In the schedules of the other guards no read is stale with copies, and every answer is the same as without."""
    assert play(schedule, replace(SHIPPED, store=NearMemoryStore)) == []

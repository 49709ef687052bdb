"""Tests that run the schedules on the fakes, with every guard and with one guard off."""

import pytest

from tests.schedules import audits, takeovers, traffic, worlds
from tests.schedules.on_fakes import Schedule, play
from tests.schedules.stage import schedules_of
from tests.simulation.mutants import ALSO_CAUGHT_ON, BY_NAME, CROWDED, LOCKED, MUTANTS, SEEDS, UNAUDITED, Mutant, hunt, together
from tests.simulation.runner import Scenario, simulate

SCHEDULES = [schedule for module in (audits, takeovers, traffic, worlds) for schedule in schedules_of(module)]


def name_of(it: object) -> str:
    """Return a test's name for a schedule or a mutant."""
    return str(getattr(it, "name", getattr(it, "__name__", it)))


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_shipped_code_on_a_schedule(schedule: Schedule) -> None:
    """With every guard on, no read is stale."""
    assert play(schedule) == []


@pytest.mark.guarantee("G1", "R4", "R10")
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.schedule], ids=name_of)
def test_guard_that_is_off_on_its_schedule(mutant: Mutant) -> None:
    """Each guard alone prevents a stale read, or does so once the guards before it are off."""
    assert mutant.schedule is not None
    before = [BY_NAME[name].parts for name in mutant.behind]
    if before:
        assert play(mutant.schedule, together(*before)) == [], "the guards before it are not the only ones that hold here"
    assert play(mutant.schedule, together(*before, mutant.parts))


@pytest.mark.guarantee("G2", "G5")
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if not mutant.schedule], ids=name_of)
def test_guard_that_is_off_by_chance(mutant: Mutant) -> None:
    """Mutants that no single schedule catches are found by random histories."""
    assert hunt(mutant, SEEDS) is not None


@pytest.mark.parametrize("scenario", [LOCKED, UNAUDITED, CROWDED], ids=["locked", "unaudited", "crowded"])
def test_shipped_code_in_a_scenario_of_mutants(scenario: Scenario) -> None:
    """With every guard on, nothing is violated where mutants are hunted."""
    assert [outcome.first() for seed in range(1, 6) if (outcome := simulate(seed, scenario=scenario)).bad] == []


@pytest.mark.parametrize("name", ["AuditKeepsOlder", "TrustsWithoutFence", "StoresAnyVersion", "JoinsReadUnderWay"])
def test_guard_that_is_off_by_chance_too(name: str) -> None:
    """Random histories also find stale reads of these mutants, so green histories mean something."""
    assert hunt(BY_NAME[name], SEEDS) is not None


@pytest.mark.parametrize("schedule", ALSO_CAUGHT_ON, ids=name_of)
def test_guard_that_is_off_on_a_further_schedule(schedule: Schedule) -> None:
    """The same guard prevents a stale read in this schedule, too."""
    assert play(schedule, BY_NAME[ALSO_CAUGHT_ON[schedule]].parts)


def test_every_schedule_is_some_mutants() -> None:
    """Each schedule catches at least one mutant."""
    caught = {mutant.schedule for mutant in MUTANTS} | set(ALSO_CAUGHT_ON)
    assert [schedule.__name__ for schedule in SCHEDULES if schedule not in caught] == []

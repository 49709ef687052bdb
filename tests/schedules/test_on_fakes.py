"""Schedules played move by move, with every guard and with one guard off."""

import pytest

from tests.schedules import audits, takeovers, traffic, worlds
from tests.schedules.on_fakes import Schedule, play
from tests.schedules.stage import schedules_of
from tests.simulation.mutants import ALSO_CAUGHT_ON, BY_NAME, MUTANTS, SEEDS, Mutant, hunt, together

SCHEDULES = [schedule for module in (audits, takeovers, traffic, worlds) for schedule in schedules_of(module)]


def name_of(it: object) -> str:
    """A test's name for a schedule or a mutant."""
    return str(getattr(it, "name", getattr(it, "__name__", it)))


@pytest.mark.guarantee("G1")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_shipped_code_on_a_schedule(schedule: Schedule) -> None:
    """With every guard in its place nobody reads the past."""
    assert play(schedule) == []


@pytest.mark.guarantee("G1", "R4", "R10")
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.schedule], ids=name_of)
def test_guard_that_is_off_on_its_schedule(mutant: Mutant) -> None:
    """Each guard alone stands between a reader and the past, or does once those before it have fallen."""
    assert mutant.schedule is not None
    before = [BY_NAME[name].parts for name in mutant.behind]
    if before:
        assert play(mutant.schedule, together(*before)) == [], "the guards before it are not the only ones that hold here"
    assert play(mutant.schedule, together(*before, mutant.parts))


@pytest.mark.guarantee("G2", "G5")
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if not mutant.schedule], ids=name_of)
def test_guard_that_is_off_by_chance(mutant: Mutant) -> None:
    """What is no matter of order alone, seeds find: the checks of the histories see it."""
    assert hunt(mutant, SEEDS) is not None


@pytest.mark.parametrize("name", ["AuditKeepsOlder", "TrustsWithoutFence", "StoresAnyVersion", "JoinsReadUnderWay"])
def test_guard_that_is_off_by_chance_too(name: str) -> None:
    """Chance, too, finds readers of the past when there are any: the green histories mean something."""
    assert hunt(BY_NAME[name], SEEDS) is not None


@pytest.mark.parametrize("schedule", ALSO_CAUGHT_ON, ids=name_of)
def test_guard_that_is_off_on_a_further_schedule(schedule: Schedule) -> None:
    """The same guard stands there, too."""
    assert play(schedule, BY_NAME[ALSO_CAUGHT_ON[schedule]].parts)


def test_every_schedule_is_some_mutants() -> None:
    """A schedule on which nothing can be caught is no test."""
    caught = {mutant.schedule for mutant in MUTANTS} | set(ALSO_CAUGHT_ON)
    assert [schedule.__name__ for schedule in SCHEDULES if schedule not in caught] == []

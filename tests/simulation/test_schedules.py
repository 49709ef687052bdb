"""Schedules played move by move, with every guard and with one guard off."""

import inspect

import pytest

from tests.simulation import schedules_audits, schedules_traffic, schedules_worlds
from tests.simulation.mutants import BY_NAME, MUTANTS, SEEDS, Mutant, hunt, together
from tests.simulation.stage import Schedule, play

SCHEDULES = [
    schedule
    for module in (schedules_audits, schedules_traffic, schedules_worlds)
    for schedule in vars(module).values()
    if inspect.iscoroutinefunction(schedule) and schedule.__module__ == module.__name__
]


def name_of(it: object) -> str:
    """A test's name for a schedule or a mutant."""
    return str(getattr(it, "name", getattr(it, "__name__", it)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_shipped_code_on_a_schedule(schedule: Schedule) -> None:
    """With every guard in its place nobody reads the past."""
    assert play(schedule) == []


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.schedule], ids=name_of)
def test_guard_that_is_off_on_its_schedule(mutant: Mutant) -> None:
    """Each guard alone stands between a reader and the past, or does once those before it have fallen."""
    assert mutant.schedule is not None
    before = [BY_NAME[name].parts for name in mutant.behind]
    if before:
        assert play(mutant.schedule, together(*before)) == [], "the guards before it are not the only ones that hold here"
    assert play(mutant.schedule, together(*before, mutant.parts))


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if not mutant.schedule], ids=name_of)
def test_guard_that_is_off_by_chance(mutant: Mutant) -> None:
    """What is no matter of order alone, seeds find: the checks of the histories see it."""
    assert hunt(mutant, SEEDS) is not None


@pytest.mark.parametrize("name", ["AuditKeepsOlder", "TrustsWithoutFence", "StoresAnyVersion", "JoinsReadUnderWay"])
def test_guard_that_is_off_by_chance_too(name: str) -> None:
    """Chance, too, finds readers of the past when there are any: the green histories mean something."""
    assert hunt(BY_NAME[name], SEEDS) is not None


def test_every_schedule_is_some_mutants() -> None:
    """A schedule on which nothing can be caught is no test."""
    assert {schedule.__name__ for schedule in SCHEDULES} == {
        mutant.schedule.__name__ for mutant in MUTANTS if mutant.schedule is not None
    }

"""Accepted writes in the simulation: the shipped service over the fakes, killed at any step."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.limits import cache_config
from tests.simulation.accepted import KillsAt, play, scenario_of
from tests.simulation.mutant_accepted import MUTANTS, hunt
from tests.simulation.nemesis import PROCESS_DEEDS
from tests.simulation.runner import Scenario, quiet

FEW = pytest.param(range(1, 51), marks=pytest.mark.slow)
FURTHER = pytest.param(range(51, 1_001), marks=[pytest.mark.alone, pytest.mark.slow, pytest.mark.long])
HAPPENS = [
    *PROCESS_DEEDS, "cut_postgres", "restart_postgres", "orders accepted", "orders answered", "orders done",
    "order OutcomeUnknown", "order CommitUnknown", "order TimeoutError", "order BacklogFull",
    "orders answered once", "order once OutcomeUnknown", "order once ConnectionLost",
]  # fmt: skip


@pytest.mark.guarantee("G1", "G2a", "R10")
@pytest.mark.parametrize("seeds", [FEW, FURTHER], ids=["few", "further"])
def test_histories_of_accepted_writes(seeds: range) -> None:
    """Each 202 is decided exactly once and in order, the ledger adds up, and a read after "done" shows it."""
    violated: list[str] = []
    counts: Counter[str] = Counter()
    for seed in seeds:
        outcome = play(seed)
        if outcome.bad:
            violated.append(f"seed {seed}: {outcome.first()}")
        counts.update(outcome.counts)
        counts.update({"hits": outcome.verdict.hits, "bound": outcome.verdict.bound})
    assert violated == []
    assert [name for name in HAPPENS if not counts[name]] == []
    assert counts["bound"] > 10 * len(seeds)
    assert counts["orders accepted"] > 5 * len(seeds)


SMALL = replace(
    quiet(Scenario.of(random.Random(1))),
    keys=("a", "b"),
    hosts=("one", "two"),
    clients=1,
    duration_s=0.8,
    think_s=0.02,
    config=cache_config(audit_interval_ms=150, fence_ttl_ms=400, fence_ttl_max_ms=400, settle_poll_ms=20),
)


@pytest.mark.guarantee("G2a")
@pytest.mark.alone
@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["after", "before"])
def test_killed_at_every_command(moment: str) -> None:
    """Whichever command of a write, of the applier or of the acceptance a process dies at: each 202 is decided once."""
    number = 0
    while True:
        number += 1
        plan = KillsAt(number, sent=moment == "after")
        outcome = play(3, scenario=SMALL, plan=plan)
        assert not outcome.bad, f"command {number}: {outcome.first()}"
        if plan.commands < number:
            break
    assert number > 50


def test_same_seed_same_history() -> None:
    """A seed is the whole history."""
    assert play(2).digest == play(2).digest != play(3).digest


def test_scenarios_take_nothing_back() -> None:
    """No restore and no failover, after which an answer may be gone, is among the faults."""
    deeds = {deed for seed in range(100) for deed in scenario_of(random.Random(seed)).deeds}
    assert deeds.isdisjoint({"truncate", "restore", "promote", "write_by_hand"})
    assert {"kill_process", "restart_postgres", "fail_over"} <= deeds


@pytest.mark.guarantee("G2a", "R10")
@pytest.mark.parametrize("name", MUTANTS)
def test_guard_of_accepted_writes_that_is_off(name: str) -> None:
    """Random histories notice each guard that is missing."""
    assert hunt(MUTANTS[name]) is not None

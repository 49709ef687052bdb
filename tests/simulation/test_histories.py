"""Histories by chance: the shipped component, audits and all, under every fault, with the same seed the same history."""

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from tests.limits import cache_config
from tests.simulation.faults import FAULTS, Fate, Nth
from tests.simulation.nemesis import DEEDS, SUPPLIER_DEEDS
from tests.simulation.runner import Outcome, Scenario, quiet, simulate

PARTS = [range(start, start + 100) for start in range(1, 201, 100)]
FURTHER = pytest.param(range(201, 2_001), marks=[pytest.mark.alone, pytest.mark.long])
"""What ``make long-outages`` plays beside; ``make simulate`` plays as many as one likes, and CI 1,500."""
HAPPENS = [
    *DEEDS, *SUPPLIER_DEEDS, "writes over both namespaces",
    "truncated", "restored", "writes settled", "writes replayed", "writes unchanged",
    "write CommitUnknown", "read bypass", "read miss", "read stored",
    "read refreshed", "read refreshed-stored", "read failed", *(f"I/O {fate}" for fate in FAULTS),
]  # fmt: skip
SMALL = replace(
    quiet(Scenario.of(random.Random(1))),
    keys=("a",),
    hosts=("one", "two"),
    clients=1,
    duration_s=0.7,
    think_s=0.02,
    config=cache_config(audit_interval_ms=150, fence_ttl_ms=400, fence_ttl_max_ms=400, settle_poll_ms=20),
)


@pytest.mark.guarantee("G1", "G4")
@pytest.mark.slow
@pytest.mark.parametrize("seeds", [*PARTS, FURTHER], ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_histories(seeds: range) -> None:
    """No unflagged read shows the past, nothing uncommitted is told, everything ends, and in peace the cache comes back.

    Every fault and every kind of answer occurs in each part of the seeds, and most reads that a write binds are hits.
    """
    violated: list[str] = []
    counts: Counter[str] = Counter()
    for seed in seeds:
        outcome = simulate(seed)
        verdict = outcome.verdict
        if outcome.bad:
            violated.append(f"seed {seed}: {outcome.first()}")
        counts.update(outcome.counts)
        counts.update({f"read {status}": number for status, number in verdict.statuses.items()})
        counts.update({"hits": verdict.hits, "bound": verdict.bound, "acknowledged": verdict.acknowledged})
    assert violated == []
    assert [name for name in HAPPENS if counts[name] < 3] == []
    assert counts["bound"] > 25 * len(seeds)
    assert counts["hits"] > 0.4 * counts["bound"]
    assert counts["acknowledged"] > 10 * len(seeds)


def test_same_seed_same_history() -> None:
    """A seed is the whole history: in this process, again, and in another one with other hash values."""
    seeds = range(1, 9)
    first, second = [[simulate(seed).digest for seed in seeds] for _ in range(2)]
    assert first == second
    assert len(set(first)) == len(first)
    command = [sys.executable, "-m", "tests.simulation", "--digests", "--seeds", str(len(seeds)), "--start", str(seeds.start)]
    printed = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "4711"}, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert [line for line in printed.splitlines() if line in {f"{s} {d}" for s, d in zip(seeds, first, strict=True)}] == [
        f"{seed} {digest}" for seed, digest in zip(seeds, first, strict=True)
    ]


def test_trace_does_not_change_the_history() -> None:
    """What a trace shows is what happened without one."""
    assert simulate(3, trace=True).digest == simulate(3).digest
    assert simulate(3, trace=True).trace


@pytest.mark.guarantee("G3")
@pytest.mark.parametrize("kind", ["redis", "postgres"])
@pytest.mark.parametrize("fate", FAULTS)
def test_nth_command_fails(kind: str, fate: Fate) -> None:
    """Whichever single command fails, and however: nothing is violated, and no Redis fault fails a request."""
    # A rate above nothing lets reads and writes fail; the plan alone decides which command does.
    scenario = replace(SMALL, postgres_rate=1e-9 if kind == "postgres" else 0.0)
    number, names = 0, set()
    while True:
        number += 1
        plan = Nth(number, fate, kind)
        outcome: Outcome = simulate(18, scenario=scenario, plan=plan)
        assert not outcome.bad, f"{fate}: command {number}, {plan.name}: {outcome.first()}"
        if plan.sent < number:
            break
        names.add(plan.name)
    assert number > 50
    expected = {
        "redis": {"connect", "read", "lease", "publish", "begin", "verify", "trust"},
        "postgres": {"load", "begin", "change", "commit", "announce", "snapshot", "page", "complete"},
    }
    assert {f"{kind}.{name}" for name in expected[kind]} <= names


def test_quiet_history_hits() -> None:
    """Without faults almost every write is proven at once, and nothing fails."""
    outcome = simulate(11, scenario=SMALL, plan=Nth(0, Fate.CARRIED, "redis"))
    assert not outcome.bad
    assert outcome.verdict.hits > 0
    assert not any(name.startswith(("I/O", "write Source", "read failed")) for name in outcome.counts)

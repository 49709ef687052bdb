"""The comparison of caches: the schedule, the judgement's arithmetic and the table; the servers are the outages' own."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.proofs.stale import APPLICABLE, LATEST_S, PERIOD_S, Count, _groups, _judge, plan, table
from tests.harness.cluster import ROOT
from tests.harness.faultlog import FaultLog
from tests.harness.history import Bounds, ByHand, History, SeenRead, SeenWrite


def test_one_seed_gives_one_schedule() -> None:
    """Every system gets the same faults at the same moments with the same chance in them; another seed gives others."""
    assert plan(7, 60.0, 3) == plan(7, 60.0, 3)
    assert plan(7, 60.0, 3) != plan(8, 60.0, 3)


@pytest.mark.parametrize("seed", [1, 7, 20101201])
def test_a_minute_has_every_kind(seed: int) -> None:
    """Each kind comes about as often as any other, and a group is over before the next one is due."""
    planned = plan(seed, 60.0, 3)
    often = Counter(fault.kind.name for fault in planned)
    assert set(often) == set(APPLICABLE)
    assert max(often.values()) - min(often.values()) <= 1
    assert {fault.instance for fault in planned} == {0, 1, 2}
    groups = list(_groups(planned))
    assert sum(len(group) for group in groups) == len(planned)
    for before, after in pairwise(groups):
        assert min(fault.at_s for fault in after) - max(fault.at_s for fault in before) >= PERIOD_S - LATEST_S


def test_faults_of_a_group_do_not_claim_the_same() -> None:
    """Two faults at once never work on the same proxy, server or process."""
    for group in _groups(plan(3, 600.0, 3)):
        claims = [fault.kind.claim.format(fault.instance) for fault in group]
        assert len(set(claims)) == len(claims), claims


def test_staleness_by_hand_is_counted_apart() -> None:
    """A read that misses an acknowledged write is stale either way; one that misses SQL by hand, only with that counted."""
    history = History(FaultLog(), Bounds(quiet_s=1.0, faulty_s=2.0))
    history.writes.append(SeenWrite("a", 0.0, 1.0, 1, acknowledged=True, kind="count"))
    history.writes.append(SeenWrite("a", 2.0, 3.0, 2, acknowledged=True, kind="count"))
    by_hand = SeenWrite("a", 4.0, 5.0, 3, acknowledged=True, kind="sql-update")
    history.by_hand.append(ByHand(by_hand, committed=5.0))
    for called, version in ((3.5, 1), (3.5, 2), (5.5, 2), (6.5, 2), (6.5, 3)):
        history.reads.append(SeenRead("a", called, called + 0.1, version))
    found = _judge(history, FaultLog())
    assert (found.checked, found.stale, found.stale_but_for_sql, found.lasting_s) == (5, 2, 1, 0.5)


def test_table() -> None:
    """One line for each measurement, as many cells as the head has, rates per million."""
    lines = table([("x", Count(2_000_000, 3, 1, 0.25, 10, 4, 0)), ("y", Count(0, 0, 0, 0.0, 0, 0, 9))]).splitlines()
    assert lines[2] == "| x | none | 2,000,000 | 10 | 3 | 2 | 0 | 0.2 | 4 |"
    assert len({line.count("|") for line in lines}) == 1


def test_the_peers_never_enter_larders_locks() -> None:
    """What is measured against is no part of what is installed."""
    peers = {"aiocache", "cashews"}
    assert peers <= _names(ROOT / "benchmarks" / "requirements.txt")
    for lock in ("requirements.txt", "requirements-run.txt", "requirements-dev.txt", "requirements-ci.txt"):
        assert not peers & _names(ROOT / lock)


def _names(lock: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", lock.read_text(), re.MULTILINE))

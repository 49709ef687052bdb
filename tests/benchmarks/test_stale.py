"""The comparison of caches: faults that do not meet, what counts as stale, and peers that stay out of Larder's locks."""

import re
from pathlib import Path

from benchmarks.proofs.stale import _groups, _judge, plan
from tests.harness.cluster import ROOT
from tests.harness.faultlog import FaultLog
from tests.harness.history import Bounds, ByHand, History, SeenRead, SeenWrite


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


def test_the_peers_never_enter_larders_locks() -> None:
    """What is measured against is no part of what is installed."""
    peers = {"aiocache", "cashews"}
    assert peers <= _names(ROOT / "benchmarks" / "requirements.txt")
    for lock in ("requirements.txt", "requirements-run.txt", "requirements-dev.txt", "requirements-ci.txt"):
        assert not peers & _names(ROOT / lock)


def _names(lock: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", lock.read_text(), re.MULTILINE))

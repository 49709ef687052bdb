"""The comparison of caches: faults that do not meet, and what counts as stale."""

from benchmarks.proofs.stale import _groups, _judge, plan
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

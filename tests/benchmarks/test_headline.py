"""The judgement of the headline, and of what PostgreSQL did meanwhile."""

from collections import Counter
from random import Random

import pytest

from benchmarks.steady.h2load import Run
from benchmarks.steady.headline import READS, WRITES, CheckedClient, RunRecord, _targets
from benchmarks.steady.statements import NAMED, Look, name_of
from tests.harness.checker import Read, Verdict, Write, check
from tests.harness.client import Endpoint

FINE = check([Read("a", 3.0, 4.0, 2, status="hit")], [Write("a", 1.0, 2.0, 2, acknowledged=True)])
STALE = check([Read("a", 3.0, 4.0, 1, status="hit")], [Write("a", 1.0, 2.0, 2, acknowledged=True)])
UNBOUND = check([Read("a", 3.0, 4.0, 1, status="hit")], [])


def _done(transactions: int = 6_360, **calls: int) -> Look:
    """A minute of 100 writes/s, each in a transaction of its own, and two audits a second."""
    of_writes = {"LOCK": 6_000, "READ_BACK": 6_000, "RECORD": 6_000, "UPDATE": 6_000}
    usual = of_writes | {"ANNOUNCE": 120, "SNAPSHOT": 120, "COMPLETE": 120}
    return Look(transactions, Counter(usual | calls))


def _judged(
    done: Look | None = None,
    verdict: Verdict = FINE,
    *,
    p99_ms: float = 2.0,
    reads: float = READS,
    writes: float = WRITES,
    statuses: tuple[int, ...] = (200,),
) -> list[bool]:
    bulk = Run([0.001], 0, reads - 1_000, 0.0, Counter(statuses))
    record = RunRecord(bulk, CheckedClient(Endpoint(1), Random(1)), done or _done(), 60.0, 1_000.0, writes, "")
    return [target.passed for target in _targets(record, verdict, p99_ms)]


def test_a_good_run_passes() -> None:
    """106 transactions a second, all of them explained; nothing stale; quick."""
    assert all(_judged())


@pytest.mark.parametrize(
    ("judged", "missed"),
    [
        (_judged(_done(LOAD=1)), 1),
        (_judged(_done(LIST_BY_ID=1)), 1),
        (_judged(_done(transactions=6_960)), 2),
        (_judged(verdict=STALE), 3),
        (_judged(verdict=UNBOUND), 3),
        (_judged(p99_ms=5.1), 4),
    ],
)
def test_each_promise_is_judged_by_itself(judged: list[bool], missed: int) -> None:
    """A load by a reader, another statement, too many transactions, a stale read, none that could have been, a slow one."""
    assert [number for number, passed in enumerate(judged) if not passed] == [missed]


def test_a_run_without_its_load_proves_nothing() -> None:
    """Too few reads or writes, or other answers than 200: every target is missed, however good the figures."""
    assert not any(_judged(reads=0.99 * READS))
    assert not any(_judged(writes=0.99 * WRITES))
    assert not any(_judged(statuses=(200, 503)))


def test_every_statement_has_its_own_name() -> None:
    """No named statement is taken for another one."""
    assert {name: name_of(text) for name, text in NAMED.items()} == {name: name for name in NAMED}


def test_transactions_are_explained_by_their_statements() -> None:
    """A write locks once and reads back once; an audit is three transactions; what is left over are loads of readers."""
    before = Look(100)
    after = Look(113)
    after.calls.update({"LOCK": 4, "READ_BACK": 4, "LOAD": 3, "ANNOUNCE": 2, "SNAPSHOT": 2, "COMPLETE": 2})
    done = after.since(before)
    assert (done.transactions, done.writes, done.audits, done.loads, done.explained) == (13, 4, 6, 3, 13)

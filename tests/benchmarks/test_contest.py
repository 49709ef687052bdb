"""The arithmetic of the contests: what wrk printed, ratios by round, whose turn it is, and what makes a row not count."""

from pathlib import Path

import pytest

from benchmarks.contest.command import at_least, row
from benchmarks.contest.contenders import CASHEWS, LARDER, Answer
from benchmarks.contest.contest import Case, Outcome, _changes, _size, order, ratio
from benchmarks.contest.load import LoadResult, parse
from benchmarks.contest.workloads import adjustments, counts, prices, reads

PATHS = [f"/products/{number}" for number in range(100)]
PRINTED = """Running 3s test @ http://127.0.0.1:8000
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.94ms  533.45us  14.49ms   89.66%
    Req/Sec    16.43k     1.63k   19.20k    73.33%
  48950 requests in 3.00s, 20.40MB read
Requests/sec:  16310.17

{"answers": 48950, "seconds": 3.000000, "bytes": 21391150, "refused": 2, "unexpected": 3, "broken": 1,\
 "p50_ms": 1.940, "p99_ms": 3.100, "max_ms": 14.490}
"""


def measured(rate: float, *, refused: int = 0, unexpected: int = 0, broken: int = 0) -> LoadResult:
    return LoadResult(round(rate * 2), 2.0, 0, refused, unexpected, broken, 1.0, 2.0, 3.0)


def outcome(*rates: float, faults: tuple[str, ...] = ()) -> Outcome:
    return Outcome(Case("GET", LARDER, Path("none")), [measured(rate) for rate in rates], list(faults))


def test_wrk_is_understood() -> None:
    """Figures come from load.lua's line, whatever wrk prints around it."""
    found = parse(PRINTED)
    assert (found.answers, found.bytes, found.p99_ms) == (48_950, 21_391_150, 3.1)
    assert found.per_second == pytest.approx(16_316.67, abs=0.01)


def test_whatever_was_wrong_counts_once() -> None:
    """An answer of 500 is refused and unexpected, and one answer; one of 204 is only unexpected."""
    assert measured(1, refused=2, unexpected=3, broken=1).wrong == 4
    assert measured(1, refused=2).wrong == 2
    assert measured(1).wrong == 0


def test_ratios_are_those_of_one_round() -> None:
    """A machine that slows down between rounds changes no ratio: the first of one is divided by the first of the other."""
    found = ratio(outcome(1_000, 500, 900), outcome(100, 50, 60))
    assert found is not None
    assert (found.middle, found.least, found.most) == (10, 10, 15)
    assert str(found) == "10× (10 to 15)"
    halved = ratio(outcome(50), outcome(100))
    assert halved is not None
    assert halved.percent() == "50% (50% to 50%)"


def test_what_does_not_count_has_no_ratio() -> None:
    """One fault in one round, and neither rate nor ratio is told, and no target is passed."""
    spoilt = outcome(1_000, faults=("3 answers were not 200",))
    assert spoilt.rate is None
    assert ratio(spoilt, outcome(1)) is None
    assert ratio(outcome(1), spoilt) is None
    assert row(spoilt)["requests/s"] is None
    assert row(spoilt)["counts"] == "NO: 3 answers were not 200"
    assert not at_least("much", 1, None).passed


def test_a_target_is_judged_by_the_median() -> None:
    """At the target it is passed, below it is missed, and the spread changes neither."""
    assert at_least("ten times", 10, ratio(outcome(1_000, 10, 1_000), outcome(100, 100, 100))).passed
    assert not at_least("ten times", 10, ratio(outcome(999, 9_999, 10), outcome(100, 100, 100))).passed


def test_rounds_alternate() -> None:
    """Everyone has a turn in every round, and each begins one; nobody always comes after the same one."""
    rounds = [order(4, number) for number in range(5)]
    assert all(sorted(places) == [0, 1, 2, 3] for places in rounds)
    assert {places[0] for places in rounds} == {0, 1, 2, 3}
    assert rounds[0] == [0, 1, 2, 3]
    assert rounds[1] == [1, 0, 3, 2]


@pytest.mark.parametrize(
    ("versions", "movements", "faults"), [(100, 100, 0), (164, 132, 0), (99, 100, 1), (100, 165, 1), (0, 0, 2)]
)
def test_acknowledged_writes_are_in_the_database(versions: int, movements: int, faults: int) -> None:
    """Fewer changes than acknowledged writes are a fault, and so are more than those and the 32 left under way by each run."""
    case = Case("PUT", LARDER, Path("none"), versions=True, ledger=True)
    runs = [measured(20), measured(30)]
    assert len(list(_changes(case, (7, 1), (7 + versions, 1 + movements), runs))) == faults


def test_nothing_is_asked_of_a_peer_without_ledger() -> None:
    """Movements are compared only where there is a ledger."""
    case = Case("PUT", CASHEWS, Path("none"), versions=True)
    assert not list(_changes(case, (0, 0), (100, 0), [measured(50)]))


def test_size_is_that_on_the_wire() -> None:
    """The size of an answer counts status line, headers, the empty line and the body."""
    wire = b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\n\r\n'
    assert _size(Answer(304, {"etag": '"1"'}, b"")) == len(wire)
    assert _size(Answer(200, {"a": "b"}, b"body")) == len(b"HTTP/1.1 200 OK\r\na: b\r\n\r\nbody")


def test_workloads_repeat() -> None:
    """A seed gives every contender the same requests; another one gives others."""
    for make in (reads, counts, prices, adjustments):
        assert make(PATHS, 50, 7) == make(PATHS, 50, 7)
        assert make(PATHS, 50, 7) != make(PATHS, 50, 8)

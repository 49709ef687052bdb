"""The history checker itself: which histories are red, and that it is fast enough for a million reads."""

import random
import time

import pytest

from tests.harness.checker import Read, Write, check

KEY = "mug-blue"


def write(
    version: int | None, called: float, returned: float, *, acknowledged: bool = True, deleted: bool = False, epoch: int = 0
) -> Write:
    return Write(KEY, called, returned, version, acknowledged, deleted, epoch)


def read(
    version: int | None, called: float, returned: float, *, flagged: bool = False, status: str = "hit", epoch: int = 0
) -> Read:
    return Read(KEY, called, returned, version, flagged, status, epoch)


def test_read_older_than_an_acknowledged_write_is_red() -> None:
    """A read called after an acknowledgement must not show the state before that write; the report names both."""
    verdict = check([read(1, 10, 11)], [write(1, 0, 1), write(2, 5, 9)])
    assert [(violation.read.version, violation.missed.version) for violation in verdict.violations] == [(1, 2)]
    assert "mug-blue: read called at 10 showed version 0.1 (hit)" in str(verdict.violations[0])


@pytest.mark.guarantee("R9")
def test_flagged_read_is_never_red_and_counted_apart() -> None:
    """A read that says that it is unverified promises nothing; it is neither checked nor a hit."""
    verdict = check([read(1, 10, 11, flagged=True)], [write(2, 5, 9)])
    assert (verdict.violations, verdict.checked, verdict.hits, verdict.flagged) == ([], 0, 0, 1)


HAND = write(2, 5, 5 + 500)
"""Hand-written SQL, recorded as acknowledged one interval after its commit (G4)."""
FIRST, LATE = write(1, 0, 1), read(None, 10, 11)
OLD, NEW = write(57, 0, 1), write(1, 20, 21, epoch=1)

ALLOWED = {
    "either state while the read overlaps the write": ([read(1, 8, 20), read(2, 8, 20)], [write(1, 0, 1), write(2, 5, 9)]),
    "called at the very moment of the acknowledgement": ([read(1, 9, 20)], [write(1, 0, 1), write(2, 5, 9)]),
    "ahead and back again before the acknowledgement": (
        [read(2, 10, 11), read(1, 12, 13), read(2, 14, 15)],
        [write(1, 0, 1), write(2, 5, 50)],
    ),
    "writes that failed or whose outcome is unknown": (
        [read(1, 10, 11), read(2, 10, 11)],
        [write(1, 0, 1), write(2, 5, 9, acknowledged=False), write(None, 6, 9, acknowledged=False)],
    ),
    "the newest of two acknowledgements in the other order": ([read(3, 10, 11)], [write(3, 0, 5), write(2, 0, 8)]),
    "a write of another key": ([read(1, 10, 11)], [Write("other", 0, 5, 9, acknowledged=True)]),
    "the new epoch, or the old one before it": ([read(1, 30, 31, epoch=1), read(57, 15, 31)], [OLD, NEW]),
    "no row where nothing was written": ([LATE, read(0, 10, 11)], []),
    "no row after a delete": ([LATE], [FIRST, write(2, 2, 3, deleted=True)]),
    "no row during a delete": ([LATE], [FIRST, write(2, 9, 30, deleted=True, acknowledged=False)]),
    "no row after a delete of unknown outcome": ([LATE], [FIRST, write(None, 2, 3, deleted=True, acknowledged=False)]),
    "no row after such a delete of a later epoch": (
        [LATE],
        [FIRST, write(None, 2, 3, deleted=True, acknowledged=False, epoch=1)],
    ),
    "a change by hand that need not be seen yet": ([read(1, 400, 401)], [HAND]),
}
STALE = {
    "older than the newest of two acknowledgements": ([read(2, 10, 11)], [write(3, 0, 5), write(2, 0, 8)]),
    "a high version of an epoch gone by": ([read(57, 30, 31)], [OLD, NEW]),
    "version 0 after a write": ([read(0, 10, 11)], [FIRST]),
    "no row after a write": ([LATE], [FIRST]),
    "no row, of a delete that a newer write replaced": ([LATE], [write(2, 2, 3, deleted=True), write(3, 4, 5)]),
    "no row, of a delete called after the read": ([LATE], [FIRST, write(2, 12, 13, deleted=True)]),
    "no row, of an unknown delete of an epoch gone by": (
        [LATE],
        [write(1, 0, 1, epoch=1), write(None, 2, 3, deleted=True, acknowledged=False)],
    ),
    "a row after its acknowledged delete": ([read(1, 10, 11)], [FIRST, write(2, 4, 5, deleted=True)]),
    "a change by hand that is due": ([read(1, 600, 601)], [HAND]),
}


@pytest.mark.parametrize(("reads", "writes"), ALLOWED.values(), ids=ALLOWED)
def test_read_that_is_allowed(reads: list[Read], writes: list[Write]) -> None:
    """A read may show any state that is not older than the newest one acknowledged strictly before its call."""
    assert not check(reads, writes).violations


@pytest.mark.parametrize(("reads", "writes"), STALE.values(), ids=STALE)
def test_read_that_is_stale(reads: list[Read], writes: list[Write]) -> None:
    """Every other state is the past, and so is a missing row that no delete explains."""
    assert len(check(reads, writes).violations) == len(reads)


def test_counters_add_up() -> None:
    """A verdict says what it rests on: reads checked, reads that an acknowledged write bound, hits, flags, statuses."""
    reads = [
        read(2, 10, 11),
        read(2, 10, 11, status="miss"),
        read(0, 1, 2),
        read(1, 10, 11, flagged=True, status="bypass"),
        read(1, 10, 12),
    ]
    verdict = check(reads, [write(2, 5, 9), write(3, 5, 9, acknowledged=False)])
    assert (verdict.reads, verdict.checked, verdict.bound, verdict.hits, verdict.flagged) == (5, 4, 3, 3, 1)
    assert (verdict.writes, verdict.acknowledged, dict(verdict.statuses)) == (2, 1, {"hit": 3, "miss": 1, "bypass": 1})
    assert verdict.stale_per_million == 250_000


def test_acknowledged_write_without_version_is_refused() -> None:
    """A recorder that lost the version of an acknowledged write would make every read of it green."""
    with pytest.raises(ValueError, match="needs its version"):
        check([], [write(None, 0, 1)])


@pytest.mark.guarantee("G1")
def test_agrees_with_the_definition_on_random_histories() -> None:
    """The sorted, bisected bound is the one that a plain reading of G1 gives, in any order of the operations."""
    chance = random.Random(20)
    for _ in range(300):
        writes = [
            Write(
                chance.choice("ab"),
                start := chance.randrange(40),
                start + chance.randrange(20),
                chance.randrange(1, 30),
                chance.random() < 0.7,
                epoch_order=chance.randrange(2),
            )
            for _ in range(12)
        ]
        reads = [
            Read(
                chance.choice("ab"),
                start := chance.randrange(60),
                start + 1,
                chance.randrange(30),
                chance.random() < 0.2,
                epoch_order=chance.randrange(2),
            )
            for _ in range(30)
        ]
        plain = {
            read
            for read in reads
            for write in writes
            if not read.flagged
            and write.acknowledged
            and write.key == read.key
            and write.returned < read.called
            and (write.epoch_order, write.version or 0) > (read.epoch_order, read.version or 0)
        }
        assert {violation.read for violation in check(reads, writes).violations} == plain


def test_a_million_reads_would_take_seconds() -> None:
    """Histories of the outage runs hold a million reads; here are a tenth of that, and the bound is for busy machines."""
    writes = [Write(f"k{n % 100}", n, n + 5, n // 100 + 1, acknowledged=True) for n in range(10_000)]
    reads = [Read(f"k{n % 100}", n / 10, n / 10 + 1, 1 << 40, status="hit") for n in range(100_000)]
    start = time.process_time()
    assert check(reads, writes).bound > 90_000
    assert time.process_time() - start < 2

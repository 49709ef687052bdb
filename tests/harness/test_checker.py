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


def test_read_called_before_the_acknowledgement_is_green() -> None:
    """A read that overlaps a write may show either state, even when it returns long after the acknowledgement."""
    assert not check([read(1, 8, 20), read(2, 8, 20)], [write(1, 0, 1), write(2, 5, 9)]).violations


def test_read_called_at_the_very_moment_of_the_acknowledgement_is_green() -> None:
    """Before is strict: a clock too coarse to tell the two apart accuses nobody."""
    assert not check([read(1, 9, 20)], [write(1, 0, 1), write(2, 5, 9)]).violations


def test_reads_ahead_and_back_again_before_the_acknowledgement_are_green() -> None:
    """While a write is committed but not acknowledged, successive reads may show the state after it and before it."""
    writes = [write(1, 0, 1), write(2, 5, 50)]
    assert not check([read(2, 10, 11), read(1, 12, 13), read(2, 14, 15)], writes).violations


@pytest.mark.guarantee("R9")
def test_flagged_read_is_never_red_and_counted_apart() -> None:
    """A read that says that it is unverified promises nothing; it is neither checked nor a hit."""
    verdict = check([read(1, 10, 11, flagged=True)], [write(2, 5, 9)])
    assert (verdict.violations, verdict.checked, verdict.hits, verdict.flagged) == ([], 0, 0, 1)


def test_unacknowledged_write_binds_no_read() -> None:
    """A failed or unknown write may or may not be there: both states are right."""
    writes = [write(1, 0, 1), write(2, 5, 9, acknowledged=False), write(None, 6, 9, acknowledged=False)]
    assert not check([read(1, 10, 11), read(2, 10, 11)], writes).violations


def test_a_late_acknowledgement_of_an_older_write_does_not_lower_the_bound() -> None:
    """Acknowledgements may come in another order than commits: the newest version of them counts."""
    writes = [write(3, 0, 5), write(2, 0, 8)]
    assert [violation.missed.version for violation in check([read(2, 10, 11)], writes).violations] == [3]
    assert not check([read(3, 10, 11)], writes).violations


def test_writes_of_other_keys_bind_nothing() -> None:
    """Keys are independent of each other."""
    assert not check([read(1, 10, 11)], [Write("other", 0, 5, 9, acknowledged=True)]).violations


def test_high_version_of_an_epoch_gone_by_is_red() -> None:
    """After a reset versions start again: version 57 of before is older than version 1 acknowledged since."""
    writes = [write(57, 0, 1), write(1, 20, 21, epoch=1)]
    assert check([read(57, 30, 31)], writes).violations
    assert not check([read(1, 30, 31, epoch=1), read(57, 15, 31)], writes).violations


def test_missing_row_after_an_acknowledged_write_is_red() -> None:
    """A missing key is a state like another: version 0 is older than any write."""
    assert check([read(0, 10, 11)], [write(1, 0, 1)]).violations
    assert check([read(None, 10, 11)], [write(1, 0, 1)]).violations
    assert not check([read(None, 10, 11), read(0, 10, 11)], []).violations


def test_missing_row_is_explained_by_a_delete_that_is_new_enough() -> None:
    """A 404 does not tell its version: it is right if some delete, not older than the bound, can have happened."""
    first, late = write(1, 0, 1), read(None, 10, 11)
    assert not check([late], [first, write(2, 2, 3, deleted=True)]).violations
    assert not check([late], [first, write(2, 9, 30, deleted=True, acknowledged=False)]).violations
    assert not check([late], [first, write(None, 2, 3, deleted=True, acknowledged=False)]).violations
    assert not check([late], [first, write(None, 2, 3, deleted=True, acknowledged=False, epoch=1)]).violations


def test_missing_row_is_not_explained_by_an_older_or_a_later_delete() -> None:
    """A delete that a newer acknowledged write replaced, or one called after the read returned, explains nothing."""
    late = read(None, 10, 11)
    assert check([late], [write(2, 2, 3, deleted=True), write(3, 4, 5)]).violations
    assert check([late], [write(1, 0, 1), write(2, 12, 13, deleted=True)]).violations
    assert check([late], [write(1, 0, 1, epoch=1), write(None, 2, 3, deleted=True, acknowledged=False)]).violations


def test_row_shown_after_its_acknowledged_delete_is_red() -> None:
    """Deletes are writes of a tombstone version."""
    assert check([read(1, 10, 11)], [write(1, 0, 1), write(2, 4, 5, deleted=True)]).violations


def test_change_made_by_hand_is_bound_from_its_promised_visibility() -> None:
    """G4: recorded as acknowledged one interval after the commit, hand-written SQL binds reads from then on."""
    by_hand = write(2, 5, 5 + 500)
    assert not check([read(1, 400, 401)], [by_hand]).violations
    assert check([read(1, 600, 601)], [by_hand]).violations


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


def test_a_million_reads_take_seconds() -> None:
    """Histories of the outage runs hold a million reads; the bound is generous, for busy machines."""
    writes = [Write(f"k{n % 100}", n, n + 5, n // 100 + 1, acknowledged=True) for n in range(100_000)]
    reads = [Read(f"k{n % 100}", n / 10, n / 10 + 1, 1 << 40, status="hit") for n in range(1_000_000)]
    start = time.perf_counter()
    assert check(reads, writes).bound > 900_000
    assert time.perf_counter() - start < 20

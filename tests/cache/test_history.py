"""What a process knows of its source's history: which epochs count, and when its source was deposed."""

import logging

import pytest

from app.cache.errors import SourceDeposed
from app.cache.history import History, Timeline, hash_of, timeline_of

SYSTEM, OTHER = "7000000000000000001", "7000000000000000002"


def epoch(timeline: int, digest: str = "aa", system: str = SYSTEM) -> str:
    return f"{system}.{timeline:08x}.{digest:0>16}"


def history_of(*epochs: str) -> History:
    """A history whose source told these epochs, one after the other."""
    history = History()
    for moment, each in enumerate(epochs):
        history.record(each, float(moment))
    return history


def test_parts_of_an_epoch() -> None:
    """A readable epoch shows system and timeline; the last 16 characters of every epoch are the hash."""
    assert timeline_of(epoch(26)) == Timeline(SYSTEM, 26)
    assert timeline_of("00000000000000aa") is None
    assert timeline_of("1.x.00000000000000aa") is None
    assert hash_of(epoch(26)) == hash_of("00000000000000aa") == "00000000000000aa"


def test_only_the_epoch_told_last_counts() -> None:
    """No fence counts before the source has told an epoch; afterwards only fences of that epoch count."""
    assert not History().trusts("")
    assert not History().trusts(epoch(1))
    history = history_of(epoch(1, "aa"), epoch(1, "bb"))
    assert history.trusts(epoch(1, "bb"))
    assert not history.trusts(epoch(1, "aa"))
    assert not history.trusts("")


def test_answer_that_comes_late() -> None:
    """The answer to an earlier question than the last one is ignored."""
    history = history_of(epoch(1, "aa"), epoch(1, "bb"))
    history.record(epoch(1, "aa"), 0.5)
    assert history.epoch == epoch(1, "bb")


def test_late_answer_of_an_old_primary() -> None:
    """A late answer of an old primary is refused, and does not depose the present source."""
    history = history_of(epoch(1), epoch(2))
    with pytest.raises(SourceDeposed):
        history.record(epoch(1), 0.5)
    assert not history.deposed
    assert history.trusts(epoch(2))


def test_higher_timeline_in_the_store() -> None:
    """The source is an old primary: its fence counts no more, its answers are refused, its connections are given up."""
    dropped = []
    history = History(on_deposed=lambda: dropped.append(1))
    history.record(epoch(1), 0.0)
    history.note_stored(epoch(2))
    assert history.deposed
    assert not history.trusts(epoch(1))
    with pytest.raises(SourceDeposed, match="old primary"):
        history.record(epoch(1), 1.0)
    assert len(dropped) == 2


def test_the_new_primary_answers() -> None:
    """Once the source tells a timeline that is not below, it is used again without a restart."""
    history = history_of(epoch(1))
    history.note_stored(epoch(2))
    history.record(epoch(2, "cc"), 1.0)
    assert not history.deposed
    assert history.trusts(epoch(2, "cc"))


def test_another_database_deposes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An epoch of another system never deposes the source; it is logged once."""
    history = history_of(epoch(3))
    with caplog.at_level(logging.WARNING, logger="app.cache.history"):
        for _ in range(3):
            history.note_stored(epoch(9, system=OTHER))
    assert not history.deposed
    assert history.trusts(epoch(3))
    assert [record.getMessage().startswith("another database") for record in caplog.records] == [True]


def test_who_may_mark_the_store() -> None:
    """Only an earlier timeline of the own system is succeeded, so no process takes the trust from another database."""
    history = history_of(epoch(2))
    assert history.succeeds(epoch(1))
    assert not history.succeeds(epoch(2, "bb"))
    assert not history.succeeds(epoch(3))
    assert not history.succeeds(epoch(1, system=OTHER))
    assert not history.succeeds("00000000000000aa")

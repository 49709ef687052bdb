"""The shares of empty slots: each key of a batch counts once."""

import pytest

from app.cache.filled_slots import FilledSlots
from app.cache.vacancies import Vacancies

_VALUE = b"V"


@pytest.mark.parametrize("slot", [None, _VALUE])
def test_key_that_several_readers_ask_for(slot: bytes | None) -> None:
    """It moves the share as far as if one had asked for it, and both shares stay between 0 and 1."""
    once, often = Vacancies(FilledSlots(10)), Vacancies(FilledSlots(10))
    once.observe(["a", "b"], ["a", "b"], [slot, None])
    often.observe(["a", "b", *["a"] * 9], ["a", "b", *["a"] * 9], [slot, None, *[slot] * 9])
    assert (often._filled_share, often._others_share) == (once._filled_share, once._others_share)
    assert 0 < often._others_share < 1


def test_key_that_is_not_filled_counts_for_no_other_kind() -> None:
    """However often it is read, it says nothing of keys that were seen filled."""
    vacancies = Vacancies(FilledSlots(10))
    vacancies.observe(["a"] * 9, ["a"], [None] * 9)
    assert vacancies._filled_share == 0
    assert 0 < vacancies._others_share <= 1


def test_filled_key_that_several_readers_ask_for() -> None:
    """It counts once in its kind, too."""
    filled = FilledSlots(10)
    once, often = Vacancies(filled), Vacancies(filled)
    once.observe(["a"], [], [None])
    often.observe(["a"] * 9, [], [None] * 9)
    assert often._filled_share == once._filled_share > 0

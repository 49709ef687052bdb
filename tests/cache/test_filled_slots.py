"""Which filled slots a process remembers."""

from app.cache.filled_slots import FilledSlots


def test_the_newest_are_remembered() -> None:
    """At least the newer half of as many as may be, at most all of them; one that is recorded again is new again."""
    filled = FilledSlots(10)
    for number in range(100):
        filled.add(f"k{number}")
        filled.add("often")
        newest = [f"k{older}" for older in range(max(0, number - 3), number + 1)]
        assert filled.others([*newest, "often"]) == []
    assert len(filled.others([f"k{number}" for number in range(100)])) >= 90


def test_what_may_be_empty_is_forgotten() -> None:
    """Whether it was recorded a moment ago or long before."""
    filled = FilledSlots(4)
    for key in "abc":
        filled.add(key)
    for key in "ac":
        filled.discard(key)
    assert ["a" in filled, "b" in filled, "c" in filled] == [False, True, False]

"""The buckets of products: their numbers, how they are written, and ids that lie in one of them."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.buckets import BUCKETS, bucket_of, moved_to, parse_ranges, ranges_of
from app.cache.errors import SourceUnavailable
from app.products.errors import BucketMoving, NotHere, SeveralPairs
from app.products.pair import GOOD_FOR_S, Pair, new_id
from app.products.product import is_product_id
from app.products.reservation import RequestedLine, is_reservation_id
from app.products.reservation_commands import Reserve


def test_bucket_is_what_a_router_computes() -> None:
    """HAProxy's ``crc32,mod(1024)`` gives these numbers, which are part of the contract: they must never change."""
    assert [bucket_of(text) for text in ("mug-blue", "a:b", "A", "")] == [
        zlib.crc32(text) % 1024 for text in (b"mug-blue", b"a:b", b"A", b"")
    ]
    assert (bucket_of("mug-blue"), bucket_of("a:b")) == (112, 520)


@given(st.frozensets(st.integers(0, BUCKETS - 1)))
def test_ranges_are_read_as_they_are_written(numbers: frozenset[int]) -> None:
    """Whatever buckets there are, their text gives them back, and neighbours are one range."""
    text = ranges_of(numbers)
    assert parse_ranges(text) == numbers
    assert text.count(",") < max(1, len(numbers))
    assert ranges_of(parse_ranges(text)) == text


@pytest.mark.parametrize("text", ["x", "1-", "-1", "5-4", "1024", "0-1024", "1,,2", "0x1", "²"])
def test_what_is_no_range_is_refused(text: str) -> None:
    """A sentence says what ranges are, and which part is none."""
    with pytest.raises(ValueError, match="must be ranges of 0 to 1023"):
        parse_ranges(text)


@given(st.integers(0, BUCKETS - 1))
def test_new_id_is_in_the_bucket_that_is_named(bucket: int) -> None:
    """For each bucket an id can be made, and the ids differ."""
    made = {new_id(None, bucket) for _ in range(5)}
    assert len(made) == 5
    assert {bucket_of(text) for text in made} == {bucket}
    assert all(is_product_id(text) and is_reservation_id(text) for text in made)


def test_new_id_is_here() -> None:
    """Where no bucket is named, the id is in one of those that are here."""
    pair = Pair("7,900-901")
    assert {bucket_of(new_id(pair, None)) for _ in range(200)} == {7, 900, 901}


@given(st.text("abc:.-_XYZ019", min_size=1, max_size=64))
def test_reservation_is_where_its_first_product_is(product_id: str) -> None:
    """A router finds a reservation by its id, as it finds the product."""
    assert bucket_of(Reserve([RequestedLine(product_id, 1), RequestedLine("other", 1)], 60).id) == bucket_of(product_id)


def test_a_text_is_moved_by_its_tail() -> None:
    """All but the last four characters stay."""
    assert [moved_to(bucket, "x" * 9)[:5] for bucket in (0, 1023)] == ["xxxxx"] * 2


def test_what_is_elsewhere_is_refused() -> None:
    """If none is here, the refusal has the bucket and those that are here; if only some are, it has the ids of each side."""
    here, elsewhere = moved_to(3, "here-0000"), moved_to(4, "there-0000")
    pair = Pair("0-3")
    pair.check([here, here], writes=True)
    pair.check([], writes=True)
    with pytest.raises(NotHere) as refused:
        pair.check([elsewhere], writes=False)
    assert refused.value.members == {"bucket": 4, "buckets_here": "0-3"}
    with pytest.raises(SeveralPairs) as several:
        pair.check([elsewhere, here, elsewhere], writes=False)
    assert several.value.members == {"here": [here], "elsewhere": [elsewhere]}


def test_a_bucket_that_moves_is_refused_in_two_steps() -> None:
    """First its writes are refused, then everything, and at the end it is another pair's; other buckets are served."""
    leaves, stays = moved_to(3, "mug-0000"), moved_to(2, "cup-0000")
    pair = Pair("0-3")
    pair.set_buckets("0-3", "3")
    pair.check([leaves, stays], writes=False)
    pair.check([stays], writes=True)
    with pytest.raises(BucketMoving):
        pair.check([stays, leaves], writes=True)
    pair.set_buckets("0-2", "3")
    for writes in (False, True):
        with pytest.raises(BucketMoving):
            pair.check([leaves], writes=writes)
    pair.set_buckets("0-2", "")
    with pytest.raises(NotHere):
        pair.check([leaves], writes=False)
    pair.check([stays], writes=True)
    assert {bucket_of(new_id(pair, None)) for _ in range(100)} == {0, 1, 2}


def test_what_was_read_too_long_ago_is_not_relied_on() -> None:
    """A process that has read the database once refuses everything if it cannot read it again in time."""
    now = [100.0]
    pair = Pair("0-3", lambda: now[0])
    pair.check_fresh()
    pair.note_reading("0-3", "", 100.0)
    now[0] += GOOD_FOR_S
    pair.check_fresh()
    now[0] += 0.01
    with pytest.raises(SourceUnavailable):
        pair.check_fresh()


def test_an_older_reading_changes_nothing() -> None:
    """Its answer came late: the process has learnt meanwhile that the bucket moves."""
    pair = Pair("0-3", lambda: 100.0)
    pair.note_reading("0-3", "3", 100.0)
    pair.note_reading("0-3", "", 99.9)
    with pytest.raises(BucketMoving):
        pair.check([moved_to(3, "mug-0000")], writes=True)
    pair.check_fresh()


def test_the_settings_are_no_reading() -> None:
    """A process that starts after a move, with the settings of before, refuses everything until it has read the database."""
    pair = Pair("0-3", lambda: 100.0)
    pair.refuse_until_read()
    with pytest.raises(SourceUnavailable):
        pair.check_fresh()
    pair.note_reading("0-2", "", 100.0)
    pair.check_fresh()
    assert (pair.configured, pair.buckets.ranges) == ("0-3", "0-2")

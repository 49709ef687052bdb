"""Codes to ids."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.products.product import is_product_id
from app.replay.ids import MappedIds, keep, sanitize


@pytest.mark.parametrize(
    ("code", "product_id"),
    [
        ("85123A", "85123A"),
        ("85123a", "85123a"),
        ("BANK CHARGES", "BANK_CHARGES"),
        ("gift_0001_20", "gift_0001_20"),
        ("ä/ß ", "____"),
        (".", "_"),
        ("..", "__"),
        ("...", "..."),
        ("x" * 70, "x" * 64),
    ],
)
def test_sanitized_codes(code: str, product_id: str) -> None:
    """What an id may not have becomes `_`, character by character; case is kept."""
    assert sanitize(code) == product_id


@given(st.text(min_size=1))
def test_every_sanitized_code_is_a_legal_id(code: str) -> None:
    """By the rule that the service itself applies."""
    assert is_product_id(sanitize(code))


@given(st.from_regex(re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII), fullmatch=True).filter(is_product_id))
def test_legal_ids_stay_as_they_are(code: str) -> None:
    """A shop whose codes are legal sees no other ids."""
    assert sanitize(code) == keep(code) == code


def test_codes_that_become_one_id_are_told() -> None:
    """Their sales will be added up, which nobody may have meant."""
    ids = MappedIds(sanitize)
    for code in ("a b", "x", "a/b", "a b", "A b"):
        ids.id_of(code)
    assert ids.collisions() == {"a_b": ["a b", "a/b"]}
    assert ids.collisions_text() == "Codes that became the same id count as one product: a_b from 'a b', 'a/b'."
    assert ids.renamed() == 3
    assert MappedIds(sanitize).collisions_text() == ""


def test_long_list_of_collisions_is_cut() -> None:
    """A message is no report."""
    ids = MappedIds(sanitize)
    for number in range(13):
        ids.id_of(f"{number} x")
        ids.id_of(f"{number}/x")
    assert ids.collisions_text().count(" from ") == 10
    assert ids.collisions_text().endswith("; and 3 more.")

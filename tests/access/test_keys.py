"""The form of keys."""

import re
import string

import pytest

from app.access.keys import KEY_PATTERN, Scope, digest_of, id_of, make_key, parse_scopes


def test_key_is_found_by_its_pattern_and_differs_each_time() -> None:
    """A scanner finds a key in any text, and no two keys or ids are equal."""
    keys = [make_key()[0] for _ in range(100)]
    text = "\n".join(f"token={key};" for key in keys)
    assert re.findall(KEY_PATTERN, text) == keys
    assert len({id_of(key) for key in keys}) == 100


def test_digest_says_nothing_of_the_key() -> None:
    """What is stored is the hash that was returned with the key, and has none of its characters in clear."""
    key, digest = make_key()
    assert digest_of(key) == digest
    assert len(digest) == 32
    assert key.encode() not in digest


def test_every_single_mistake_is_noticed() -> None:
    """A key with one wrong, missing or additional character is no key; the stored keys need not be asked."""
    key, _ = make_key()
    for place in range(len(key)):
        for other in (*string.ascii_lowercase[:3], "2", "_", "A", "é"):
            if other != key[place]:
                assert digest_of(key[:place] + other + key[place + 1 :]) is None, (place, other)
        assert digest_of(key[:place] + key[place + 1 :]) is None
    assert digest_of(key + "a") is None


@pytest.mark.parametrize("text", ["", "lrd_", "lrd___", "Bearer", "lrd_" + "a" * 100_000])
def test_what_is_no_key_is_refused_at_once(text: str) -> None:
    """Any text can be checked, in time that grows with its length only."""
    assert digest_of(text) is None


def test_unknown_scope_allows_nothing() -> None:
    """A scope of a newer release is left out, and those that are known stay."""
    assert parse_scopes(["stock:adjust", "stock:teleport"]) == {Scope.STOCK_ADJUST}
    assert all(scope.allows for scope in Scope)

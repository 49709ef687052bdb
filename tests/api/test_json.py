"""A body is read as JSON exactly as the standard library reads it, with white space around it or without."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.api import bodies
from app.api.problems import Problem

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_AROUND = st.sampled_from(["", "", " ", "\n", "\t\r\n ", "\u00a0", "\ufeff", "x", ",", "{}"])


@given(before=_AROUND, value=_JSON, after=_AROUND, cut=st.integers(0, 3))
def test_a_body_is_read_as_the_library_reads_it(before: str, value: object, after: str, cut: int) -> None:
    """The value is the same, and so is the fault of a text that is not JSON, with its place."""
    text = before + json.dumps(value, ensure_ascii=False)
    text = text[: len(text) - cut] + after
    try:
        expected: object = json.loads(text)
    except json.JSONDecodeError as error:
        expected = f"{error.msg} at line {error.lineno}, column {error.colno}"
    try:
        found = bodies.parse_json(text.encode())
    except Problem as problem:
        found = problem.detail.removeprefix("The body cannot be read as JSON: ").partition(". Nothing was changed")[0]
        if "byte order mark" in found:
            assert text.startswith("\ufeff")
            return
    assert found == expected

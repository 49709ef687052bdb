"""The table of a request's header fields."""

from app.api.fields import REPEATED, fields_in, fields_of
from app.api.request_state import FIELDS


def test_a_repeated_field_has_no_value() -> None:
    """Its lines have to be read by whoever needs them, however many there are."""
    assert fields_of([(b"host", b"a"), (b"accept", b"b")]) == {b"host": b"a", b"accept": b"b"}
    assert fields_of([(b"host", b"a"), (b"accept", b"b"), (b"host", b"c"), (b"host", b"d")]) == {
        b"host": REPEATED,
        b"accept": b"b",
    }


def test_a_head_is_looked_through_once() -> None:
    """The table is kept in the request's state; a request without one gets a table each time."""
    headers, state = [(b"host", b"a")], dict[str, object]()
    scope = {"headers": headers, "state": state}
    assert fields_in(scope) is fields_in(scope) is state[FIELDS]
    assert fields_in({"headers": headers}) == {b"host": b"a"}

"""A table of a request's header fields. One look-up tells whether a field was sent.

Code that needs a field's value reads it from the list of lines, because a field may be repeated.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.api.request_state import FIELDS

REPEATED = b"\0"
"""Stands for the values of a field that was sent more than once. No value has this character."""
Headers = Sequence[tuple[bytes, bytes]]


class KnownHead(NamedTuple):
    """What the server's parser found in a head, to be used again for the same bytes."""

    headers: Headers
    fields: Mapping[bytes, bytes]
    body_bytes: int
    """Length of the body that it announces."""


def fields_of(headers: Headers) -> Mapping[bytes, bytes]:
    """Return the value of each field, or ``REPEATED``."""
    fields = dict(headers)
    if len(fields) != len(headers):
        fields = {}
        for name, value in headers:
            fields[name] = REPEATED if name in fields else value
    return fields


def fields_in(scope: Mapping[str, Any]) -> Mapping[bytes, bytes]:
    """Return the fields of a request, which are looked through once."""
    if (state := scope.get("state")) is None:
        return fields_of(scope["headers"])
    fields: Mapping[bytes, bytes] | None = state.get(FIELDS)
    if fields is None:
        state[FIELDS] = fields = fields_of(scope["headers"])
    return fields

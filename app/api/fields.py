"""The fields of a request's head by name, so that a request without a field learns that in one look.

What a field says when it is there is read from all its lines, by those who need it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = "fields"
"""Key in the request state under which they are kept."""
REPEATED = b"\0"
"""Stands for the values of a field that was sent more than once. No value has this character."""
Headers = Sequence[tuple[bytes, bytes]]


def fields_of(headers: Headers) -> dict[bytes, bytes]:
    """Return the value of each field, or ``REPEATED``."""
    fields = dict(headers)
    if len(fields) != len(headers):
        names = [name for name, _ in headers]
        fields |= {name: REPEATED for name in fields if names.count(name) > 1}
    return fields


def fields_in(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the fields of a request, which are looked through once."""
    if (state := scope.get("state")) is None:
        return fields_of(scope["headers"])
    fields: dict[bytes, bytes] | None = state.get(FIELDS)
    if fields is None:
        state[FIELDS] = fields = fields_of(scope["headers"])
    return fields

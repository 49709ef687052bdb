"""The number of values in a JSON text, counted before it is parsed.

Parsed, ``[[],[],…]`` of 4 MiB is a million objects: a second in which nobody else is served, and 350 MB. No operation takes
more than a few thousand values, so a text with more is refused unparsed. It is counted in slices, between which others have
their turn; what stays is parsed and checked within a bounded time.
"""

import asyncio
import re

MAX_VALUES = 16_384
"""Most members and items of a body, all levels taken together. A batch of 1,000 whole products has 11,000."""
_SLICE = 65_536
_MARKS = (b",", b"[", b"{")
"""Each value but the first has a comma before it, or is the first one in something that begins."""
_REST_OF_ESCAPE = re.compile(rb"\\*.?", re.DOTALL)


async def has_too_many_values(body: bytes) -> bool:
    """Whether there are more than ``MAX_VALUES``. What is no JSON has any number."""
    if len(body) <= 2 * MAX_VALUES:
        return False
    marks = 0
    for start in range(0, len(body), _SLICE):
        marks += _marks(body[start : start + _SLICE])
        if marks > MAX_VALUES:  # with those inside of strings
            return await _has_too_many_outside_strings(body)
        await asyncio.sleep(0)
    return False


def _marks(text: bytes) -> int:
    return sum(map(text.count, _MARKS))


async def _has_too_many_outside_strings(body: bytes) -> bool:
    marks = start = 0
    inside = False
    while start < len(body):
        end = start + _SLICE
        if body[end - 1 : end] == b"\\" and (rest := _REST_OF_ESCAPE.match(body, end)):
            end = rest.end()
        parts = body[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        marks += _marks(b"".join(parts[inside::2]))
        if marks > MAX_VALUES:
            return True
        inside ^= len(parts) % 2 == 0
        start = end
        await asyncio.sleep(0)
    return False

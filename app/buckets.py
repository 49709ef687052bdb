"""The buckets into which products are divided when there is more than one PostgreSQL.

The bucket of a text is its CRC-32 modulo 1024. A router computes the same from the path: docs/TOPOLOGIES.md shows how. Numbers
of buckets are written as ranges, such as ``0-511,600``.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated
from zlib import crc32

from pydantic import AfterValidator

BUCKETS = 1024
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_TAIL = b"0000"


def bucket_of(text: str) -> int:
    """Return the bucket of an id."""
    return crc32(text.encode()) % BUCKETS


def parse_ranges(text: str) -> frozenset[int]:
    """Return the numbers in ranges; none if the text is empty.

    Raises:
        ValueError: the text is not ranges, or has a number that is no bucket's.
    """
    numbers: set[int] = set()
    for part in text.split(",") if text else ():
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < BUCKETS:
            raise ValueError(f"must be ranges of 0 to {BUCKETS - 1}, such as 0-511,600; it has {part.strip()!r}")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def ranges_of(numbers: Iterable[int]) -> str:
    """Return numbers as ranges, in order, each as long as it can be."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


BucketRanges = Annotated[str, AfterValidator(lambda text: ranges_of(parse_ranges(text)))]
"""Ranges as ``ranges_of`` writes them."""


def moved_to(bucket: int, text: str) -> str:
    """Return an ASCII text with its last four characters replaced by hexadecimal digits, so that it is in a bucket."""
    stem = text[: -len(_TAIL)].encode()
    return (stem + _tails()[(crc32(stem + _TAIL) ^ bucket) % BUCKETS]).decode()


@cache
def _tails() -> Mapping[int, bytes]:
    """Return tails by what they change in the bucket of a text that ends in ``_TAIL``, when they take that place.

    How the CRC-32 of two texts of one length differs depends only on where the texts differ, and not on what they share.
    """
    tails: dict[int, bytes] = {}
    number = 0
    while len(tails) < BUCKETS:
        tail = b"%04x" % number
        tails.setdefault((crc32(tail) ^ crc32(_TAIL)) % BUCKETS, tail)
        number += 1
    return tails

"""The partitions of a namespace: parts of its keys, each with a fence, a watermark, a claim and an audit row of its own.

A fence must lie where the slots lie for which it vouches, because one atomic read has to return both. In a cluster that is one
hash slot. So all keys of a partition have one tag, and everything that the protocol says of a namespace holds for each of its
partitions. A namespace that is not divided is its only partition, and has none of these names.

The number of partitions belongs to the name: to the audits, another number is another namespace.
"""

from binascii import crc32, crc_hqx
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import count
from typing import TypeVar

Result = TypeVar("Result")

MOST = 1_024
_MEMORY_KEYS = 10_000
"""Number of keys whose partition is remembered."""
HASH_SLOTS = 16_384


def checked_number(number: int) -> int:
    """Return a number of partitions. Raises ``ValueError`` for one that no namespace can have."""
    if not 1 <= number <= MOST or number & (number - 1):
        raise ValueError(f"the number of partitions must be a power of two from 1 to {MOST:,}, it is {number}")
    return number


def hash_slot(tag: str) -> int:
    """Return the hash slot of all keys with a tag, as Redis computes it (CRC-16/XMODEM)."""
    return crc_hqx(tag.encode(), 0) % HASH_SLOTS


def family_of(row: str) -> str:
    """Return the name that the partitions of one namespace have in common, from the name of an audit row."""
    return row.partition("#")[0]


def rows_of(name: str) -> list[str]:
    """Return the names of the audit rows of a cache: its own, or those of its partitions."""
    _, divided, digits = name.rpartition("/")
    number = int(digits) if divided and digits.isdigit() else 1
    return [f"{name}#{partition}" for partition in range(number)] if 1 < number <= MOST else [name]


def name_with(cache_name: str, number: int) -> str:
    """Return the name of a cache that is divided into so many partitions; one that is not keeps its name."""
    return f"{cache_name}/{number}" if number > 1 else cache_name


def joined(parts: Iterable[Sequence[int]], results: Iterable[Sequence[Result]]) -> list[Result]:
    """Return the results of all parts as one list; each part tells the places of its results."""
    by_place = {at: result for own, found in zip(parts, results, strict=True) for at, result in zip(own, found, strict=True)}
    return [by_place[at] for at in range(len(by_place))]


class _PartitionOf(dict[str, int]):
    """A table of keys and their partitions, which is emptied when it is full. A read asks for its partition once or twice."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def __missing__(self, key: str) -> int:
        if len(self) >= _MEMORY_KEYS:
            self.clear()
        partition = self[key] = crc32(key.encode()) * self._number >> 32
        return partition


class Partitions:
    """The partitions of one namespace.

    Args:
        cache_name: the name of the cache in Redis, which would be that of its audit row.
        number: how many there are.
    """

    def __init__(self, cache_name: str, number: int) -> None:
        self.number = checked_number(number)
        self.name = name_with(cache_name, number)
        """The name of the cache, with the number."""
        self.rows: Sequence[str] = rows_of(self.name)
        """The name of each partition's audit row."""
        self.of: Callable[[str], int] = _PartitionOf(number).__getitem__
        """Returns the partition of a key."""

    @cached_property
    def tags(self) -> Sequence[str]:
        """The tag of each partition.

        Ranges of hash slots are what the nodes of a cluster have, often of equal length. So that nodes get equal shares of the
        partitions, the tag of partition p is the first one whose hash slot is in the p-th of as many equal ranges.
        """
        return [self._tag(partition) for partition in range(self.number)]

    @cached_property
    def slots(self) -> Sequence[int]:
        """The hash slot of each partition."""
        return [hash_slot(tag) for tag in self.tags]

    def cut(self, keys: Sequence[str]) -> dict[int, list[int]]:
        """Return the places of the keys by partition, for each partition that has any of them."""
        places: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(self.of(key), []).append(place)
        return places

    def _tag(self, partition: int) -> str:
        tags = (f"{self.name}.{partition}.{number}" for number in count())
        return next(tag for tag in tags if hash_slot(tag) * self.number // HASH_SLOTS == partition)

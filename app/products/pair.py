"""The buckets of products that this pair holds, when there is more than one PostgreSQL (docs/TOPOLOGIES.md).

A service and its PostgreSQL are a *pair*, and hold some of the buckets of ``app.buckets``. What belongs to another pair is
refused before anything is read: otherwise an id of another pair could come to exist here a second time.

While a bucket moves to another pair, its writes are refused first, and then its reads, too (``pair_move``). A process learns
that from the database: each write reads it under its locks and is decided by what it has read, and ``pair_watch`` reads it
twice a second for everything else. A read is checked before and after it is carried out, and is refused if the process has not
read the buckets for ``GOOD_FOR_S``. A move waits for that long before it turns products into tombstones, so no read answers
with one.
"""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from app.buckets import BUCKETS, bucket_of, parse_ranges
from app.cache.errors import SourceUnavailable
from app.cache.ports import Clock
from app.products.errors import BucketMoving, NotHere, SeveralPairs
from app.products.product import new_product_id

MOST_NAMED = 50
"""Most ids that a refusal lists of each side."""
GOOD_FOR_S = 2.0
"""How long a process may go on with what it has read last."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """One reading: the buckets that a database holds, and those that move to or from another one."""

    ranges: str
    """The buckets that it holds, as ``app.buckets`` writes them."""
    held: frozenset[int]
    moving: frozenset[int]

    def check(self, ids: Iterable[str], *, writes: bool) -> None:
        """Check that all these ids belong here.

        Raises:
            BucketMoving: one of them is being moved to or from another pair.
            NotHere: none of them is here.
            SeveralPairs: only some are.
        """
        named = list(dict.fromkeys(ids))
        buckets = [bucket_of(text) for text in named]
        self._check_moving(buckets, writes=writes)
        here = [text for text, bucket in zip(named, buckets, strict=True) if bucket in self.held]
        if len(here) == len(named):
            return
        if not here:
            raise NotHere(buckets[0], self.ranges)
        elsewhere = [text for text, bucket in zip(named, buckets, strict=True) if bucket not in self.held]
        raise SeveralPairs(here[:MOST_NAMED], elsewhere[:MOST_NAMED])

    def check_write(self, ids: Iterable[str], recorded: Sequence[str] | None) -> None:
        """Check that a write of these products may be decided. Raises as ``check``.

        Args:
            ids: the products, and the reservations that the write names.
            recorded: those that were recorded when the write was accepted; ``None`` if it is decided at once. What was accepted
                before its bucket began to move is decided as long as the bucket is here: a move waits for these products, and
                for no others.
        """
        if recorded is None:
            self.check(ids, writes=True)
            return
        named = list(ids)
        self.check([one for one in named if one not in recorded], writes=True)
        self.check(named, writes=False)

    def check_bucket(self, bucket: int, *, writes: bool) -> None:
        """Check that a bucket is here. Raises ``BucketMoving``, ``NotHere``."""
        self._check_moving([bucket], writes=writes)
        if bucket not in self.held:
            raise NotHere(bucket, self.ranges)

    def _check_moving(self, buckets: Iterable[int], *, writes: bool) -> None:
        for bucket in buckets if self.moving else ():
            if bucket in self.moving and (writes or bucket not in self.held):
                raise BucketMoving(bucket)


@lru_cache(maxsize=8)
def buckets_of(ranges: str, moving: str) -> Buckets:
    """Return what a database said. Every write reads it, and it seldom changes."""
    return Buckets(ranges, parse_ranges(ranges), parse_ranges(moving))


class Pair:
    """The buckets that are here, as the process knows them.

    Args:
        ranges: their numbers in the settings. They count until the database is read (``refuse_until_read``).
        clock: a monotonic clock.
    """

    def __init__(self, ranges: str, clock: Clock = time.monotonic) -> None:
        self.configured = ranges
        """The buckets in the settings of this process. After a move the database holds others."""
        self._clock = clock
        self._good_until = float("inf")
        self._asked_at = float("-inf")
        self.set_buckets(ranges, "")

    def set_buckets(self, ranges: str, moving: str) -> None:
        """Take note of the buckets that are here, and of those that move to or from another pair."""
        self.buckets = buckets_of(ranges, moving)

    def refuse_until_read(self) -> None:
        """Refuse everything until the database is read: since the settings were written, buckets may have moved."""
        self._good_until = float("-inf")

    def note_reading(self, ranges: str, moving: str, asked_at: float) -> None:
        """Take note of what the database answered to a query sent at ``asked_at``. It is good for ``GOOD_FOR_S`` from then on.

        The answer to an earlier query than the last one noted changes nothing, because it may be older.
        """
        if asked_at < self._asked_at:
            return
        self._asked_at = asked_at
        self.set_buckets(ranges, moving)
        self._good_until = asked_at + GOOD_FOR_S

    def holds(self, text: str) -> bool:
        """Return whether an id belongs here."""
        return bucket_of(text) in self.buckets.held

    def check_fresh(self) -> None:
        """Check that the database was read lately. Raises ``SourceUnavailable``."""
        if self._clock() > self._good_until:
            raise SourceUnavailable("the buckets of this pair could not be read for too long")

    def check(self, ids: Iterable[str], *, writes: bool) -> None:
        """Check that all these ids belong here. Raises as ``Buckets.check``."""
        self.buckets.check(ids, writes=writes)

    def check_bucket(self, bucket: int, *, writes: bool) -> None:
        """Check that a bucket is here. Raises ``BucketMoving``, ``NotHere``."""
        self.buckets.check_bucket(bucket, writes=writes)

    def some_bucket(self) -> int:
        """Return one of the buckets, for a new id."""
        choice = sorted(self.buckets.held - self.buckets.moving)
        return random.choice(choice) if choice else random.randrange(BUCKETS)


def new_id(pair: Pair | None, bucket: int | None) -> str:
    """Return a new id of a bucket; if none is named, of any that is here."""
    return new_product_id(pair.some_bucket() if bucket is None and pair is not None else bucket)

"""The buckets of products that this pair holds, when there is more than one PostgreSQL (docs/TOPOLOGIES.md).

A service and its PostgreSQL are a *pair*, and hold some of the buckets of ``app.buckets``. What belongs to another pair is
refused before anything is read: otherwise an id of another pair could come to exist here a second time.

While a bucket moves to another pair, its writes are refused first, and then its reads, too (``pair_move``). A process learns
that from the database: each write reads it under its locks, and ``pair_watch`` twice a second. What is not decided under a
write's locks is refused if the process has not read the buckets for ``GOOD_FOR_S``, and a move waits for that long.
"""

import random
import time
from collections.abc import Iterable

from app.buckets import BUCKETS, bucket_of, parse_ranges
from app.cache.errors import SourceUnavailable
from app.cache.ports import Clock
from app.products.errors import BucketMoving, NotHere, SeveralPairs
from app.products.product import new_product_id

MOST_NAMED = 50
"""Most ids that a refusal lists of each side."""
GOOD_FOR_S = 2.0
"""How long a process may go on with what it has read last."""


class Pair:
    """The buckets that are here.

    Args:
        ranges: their numbers, as ``app.buckets`` writes them.
        clock: a monotonic clock.
    """

    def __init__(self, ranges: str, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._good_until = float("inf")
        self.become(ranges, "")

    def become(self, ranges: str, moving: str) -> None:
        """Take note of the buckets that are here, and of those that move to another pair."""
        self.ranges = ranges
        self._held = parse_ranges(ranges)
        self._moving = parse_ranges(moving)
        self._choice = sorted(self._held - self._moving)

    def read(self, ranges: str, moving: str, asked_at: float) -> None:
        """Take note of what the database said. From the first call on, what was read is good for ``GOOD_FOR_S``."""
        self.become(ranges, moving)
        self._good_until = asked_at + GOOD_FOR_S

    def holds(self, text: str) -> bool:
        """Return whether an id belongs here."""
        return bucket_of(text) in self._held

    def check_fresh(self) -> None:
        """Check that the database was read lately. Raises ``SourceUnavailable``."""
        if self._clock() > self._good_until:
            raise SourceUnavailable("the buckets of this pair could not be read for too long")

    def check(self, ids: Iterable[str], *, writes: bool) -> None:
        """Check that all these ids belong here.

        Raises:
            BucketMoving: one of them is being moved to another pair.
            NotHere: none of them is here.
            SeveralPairs: only some are.
        """
        named = list(dict.fromkeys(ids))
        buckets = [bucket_of(text) for text in named]
        self._check_moving(buckets, writes=writes)
        here = [text for text, bucket in zip(named, buckets, strict=True) if bucket in self._held]
        if len(here) == len(named):
            return
        if not here:
            raise NotHere(buckets[0], self.ranges)
        elsewhere = [text for text in named if not self.holds(text)]
        raise SeveralPairs(here[:MOST_NAMED], elsewhere[:MOST_NAMED])

    def check_bucket(self, bucket: int, *, writes: bool) -> None:
        """Check that a bucket is here. Raises ``BucketMoving``, ``NotHere``."""
        self._check_moving([bucket], writes=writes)
        if bucket not in self._held:
            raise NotHere(bucket, self.ranges)

    def some_bucket(self) -> int:
        """Return one of the buckets, for a new id."""
        return random.choice(self._choice) if self._choice else random.randrange(BUCKETS)

    def _check_moving(self, buckets: Iterable[int], *, writes: bool) -> None:
        for bucket in buckets if self._moving else ():
            if bucket in self._moving and (writes or bucket not in self._held):
                raise BucketMoving(bucket)


def new_id(pair: Pair | None, bucket: int | None) -> str:
    """Return a new id of a bucket; if none is named, of any that is here."""
    return new_product_id(pair.some_bucket() if bucket is None and pair is not None else bucket)

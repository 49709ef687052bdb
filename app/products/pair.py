"""The part of the products that is here, when there is more than one PostgreSQL (docs/TOPOLOGIES.md).

A service and its PostgreSQL are a *pair*, and hold some of the buckets of ``app.buckets``. What belongs to another pair is
refused before anything is read: a second product of an id would otherwise begin to exist here.
"""

import random
from collections.abc import Iterable

from app.buckets import BUCKETS, bucket_of, parse_ranges
from app.products.errors import NotHere, SeveralPairs
from app.products.product import new_product_id

MOST_NAMED = 50
"""Most ids that a refusal lists of each side."""


class Pair:
    """The buckets that are here.

    Args:
        ranges: their numbers, as ``app.buckets`` writes them.
    """

    def __init__(self, ranges: str) -> None:
        self.ranges = ranges
        self._held = parse_ranges(ranges)
        self._choice = sorted(self._held)

    def holds(self, text: str) -> bool:
        """Return whether an id belongs here."""
        return bucket_of(text) in self._held

    def check(self, ids: Iterable[str]) -> None:
        """Check that all these ids belong here.

        Raises:
            NotHere: none of them does.
            SeveralPairs: only some do.
        """
        named = list(dict.fromkeys(ids))
        elsewhere = [text for text in named if not self.holds(text)]
        if not elsewhere:
            return
        if len(elsewhere) == len(named):
            raise NotHere(bucket_of(elsewhere[0]), self.ranges)
        here = [text for text in named if self.holds(text)]
        raise SeveralPairs(here[:MOST_NAMED], elsewhere[:MOST_NAMED])

    def check_bucket(self, bucket: int) -> None:
        """Check that a bucket is here. Raises ``NotHere``."""
        if bucket not in self._held:
            raise NotHere(bucket, self.ranges)

    def some_bucket(self) -> int:
        """Return one of the buckets, for a new id."""
        return random.choice(self._choice) if self._choice else random.randrange(BUCKETS)


def new_id(pair: Pair | None, bucket: int | None) -> str:
    """Return a new id of a bucket; if none is named, of any that is here."""
    return new_product_id(pair.some_bucket() if bucket is None and pair is not None else bucket)

"""How often slots are found empty, and so which leases a read should take at once.

A read that also asks for leases saves a round trip for each slot that is empty, and costs a little for each that is not. So
it asks only for kinds of keys of which many were empty lately. There are two kinds: keys whose slot this process last saw
filled, and others.
"""

from collections.abc import Sequence

from . import slot
from .filled_slots import FilledSlots

WORTH = 0.125
"""Share of empty slots at which asking for leases begins to save more than it costs."""
_REMEMBERED = 64
"""Number of keys over which the share is averaged."""


class Vacancies:
    """The recent shares of empty slots."""

    def __init__(self, filled: FilledSlots) -> None:
        self._filled = filled
        self._filled_share = 0.0
        self._others_share = 0.0

    def expected(self, keys: Sequence[str], others: Sequence[str]) -> Sequence[str]:
        """Return the keys whose slots are probably empty. ``others`` are those that were not seen filled."""
        if self._filled_share >= WORTH:
            return keys if self._others_share >= WORTH else [key for key in keys if key in self._filled]
        return others if self._others_share >= WORTH else ()

    def observe(self, keys: Sequence[str], others: Sequence[str], slots: Sequence[bytes | None]) -> None:
        """Count the empty slots that a read found, each key once, and record the filled ones of ``others``."""
        found, new = dict(zip(keys, slots, strict=True)), dict.fromkeys(others)
        empty, empty_others = list(found.values()).count(None), 0
        if new:
            for key in new:
                raw = found[key]
                if raw is None:
                    empty_others += 1
                elif not raw.startswith(slot.LEASE):
                    self._filled.add(key)
            self._others_share = _moved(self._others_share, empty_others, len(new))
        if len(new) < len(found):
            self._filled_share = _moved(self._filled_share, empty - empty_others, len(found) - len(new))


def _moved(share: float, empty: int, keys: int) -> float:
    return share + (empty / keys - share) * min(1.0, keys / _REMEMBERED)

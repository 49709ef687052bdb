"""The load of one process, and which requests it sheds when it has too much to do.

The load is measured by how late a timer of the event loop fires, and by how long writes wait. While one is above its target,
its pressure rises; while it is below, the pressure falls. The higher of the two counts. Below ``CALM`` nothing is shed, so that
single long steps of the loop refuse nobody. Above it requests are shed by kind: over the first unit of pressure a growing share
of the lists and batches is refused, over the second of the other requests that need the application, over the third of the hot
reads. Writes that wait refuse no hot read, because hot reads do not use PostgreSQL.

What is shed costs a small part of what an answer costs, so that the rest is answered in time.
"""

import asyncio
import random
from enum import IntEnum
from typing import Protocol

TICK_S = 0.05
"""Pause between two measurements."""
STEEPEST = 0.2
"""Most by which the pressure changes in one tick."""
CALM = 0.5
"""Pressure up to which nothing is shed."""
HIGHEST = CALM + 3.0
"""Pressure at which everything is shed."""
WAIT_TARGET_S = 0.5
"""How long a write may wait for its transaction until requests are shed."""


class Kind(IntEnum):
    """A kind of request. Those with the lowest number are shed first."""

    LIST = 0
    """A list, a read of many, a page of the ledger, a batch."""
    REQUEST = 1
    """Any other request that needs the application: a write, a miss."""
    HIT = 2
    """A read of one product."""
    NEVER = 3
    """What an operator needs to see how the process is."""


class Load:
    """The load of one process.

    Args:
        target_s: the lag of the event loop up to which nothing is shed.
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._lag_pressure = self._wait_pressure = 0.0
        self.pressure = 0.0
        """From 0 to ``HIGHEST``."""

    def note(self, lag_s: float, wait_s: float) -> None:
        """Take one measurement: how late the timer was, and how long the oldest write has waited."""
        self._lag_pressure = _moved(self._lag_pressure, lag_s / self._target_s, HIGHEST)
        self._wait_pressure = _moved(self._wait_pressure, wait_s / WAIT_TARGET_S, CALM + Kind.HIT)
        self.pressure = max(self._lag_pressure, self._wait_pressure)

    @property
    def reason(self) -> str:
        """Return for the log why requests are shed."""
        return "the event loop lags" if self._lag_pressure >= self._wait_pressure else "writes wait for their transaction"

    def may_shed(self, kind: Kind) -> bool:
        """Return whether some requests of this kind are refused now."""
        return self.pressure > CALM + kind

    def sheds(self, kind: Kind) -> bool:
        """Return whether a request of this kind is refused now. Chance decides for the share that is."""
        share = self.pressure - CALM - kind
        return share > 0 and (share >= 1 or random.random() < share)


def _moved(pressure: float, load: float, highest: float) -> float:
    """Return the pressure after one measurement of a load, as a multiple of its target."""
    return min(highest, max(0.0, pressure + STEEPEST * max(-1.0, min(1.0, load - 1.0))))


class WaitingWrites(Protocol):
    """The part of the service that knows how long writes wait."""

    @property
    def longest_wait_s(self) -> float:
        """How long the oldest write that no transaction has taken has waited."""


async def measure(load: Load, writes: WaitingWrites) -> None:
    """Measure until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        load.note(max(0.0, loop.time() - due), writes.longest_wait_s)

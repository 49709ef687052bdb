"""What all workers of one address have counted, whichever of them is asked.

Each worker keeps its tally in a file of its own, in a directory that they share and nobody else can enter: renewed every
``RENEWAL_S``, replaced as a whole, and renewed before the worker answers ``/metrics`` itself. So everything that was ever shown
stands in the files, and a later answer, whoever gives it, shows no less; the counts of siblings are up to ``RENEWAL_S`` old.

A successor goes on from the file of its predecessor: what a killed worker had not written yet is lost, and was never shown.
"""

import asyncio
import logging
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.api.metrics import Tally

RENEWAL_S = 0.25
_GONE_S = 5.0
"""A tally that old belongs to a worker that is dead or hangs: its counts stay, but nothing else of it is so any more."""
_log = logging.getLogger("larder")


class SharedMetrics:
    """The tallies of all workers, as one of them sees them.

    Args:
        directory: where they keep them.
        number: which of the workers this is.
        clock: seconds, on a clock that all of them share.
    """

    def __init__(self, directory: Path, number: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = directory / str(number)
        self._clock = clock
        self._failing = False
        self._before = _counts_of(_read(self._file), restarts=1) if self._file.exists() else Tally()
        self._renew(Tally())

    async def keep(self, live: Callable[[], Tally]) -> None:
        """Renew this worker's file until cancelled, and once more then."""
        try:
            while True:
                self._renew(live())
                await asyncio.sleep(RENEWAL_S)
        finally:
            self._renew(live())

    def total(self, live: Tally) -> Tally:
        """Sum the tallies of all workers; ``live`` is what this process has counted since its start."""
        total = self._renew(live)
        for path in self._file.parent.glob("[0-9]*"):
            if path.name.isdecimal() and path != self._file:
                sibling = _read(path)
                total += sibling if self._clock() - sibling.taken_at < _GONE_S else _counts_of(sibling)
        return total

    def _renew(self, live: Tally) -> Tally:
        own = replace(self._before + live, taken_at=self._clock())
        try:
            self._write(own)
        except FileNotFoundError:
            pass  # the parent is gone, and the directory with it: this worker is about to end
        except OSError as error:
            if not self._failing:
                _log.warning("the other workers cannot be told what this one counts: %s", error)
            self._failing = True
        else:
            self._failing = False
        return own

    def _write(self, tally: Tally) -> None:
        new = self._file.with_suffix(".new")
        new.write_bytes(pickle.dumps(tally))
        new.replace(self._file)


def _read(path: Path) -> Tally:
    tally: Tally = pickle.loads(path.read_bytes())  # noqa: S301 - written by our own workers; nobody else can enter the directory
    return tally


def _counts_of(tally: Tally, restarts: int = 0) -> Tally:
    """What stays of a tally when its worker is gone."""
    return replace(tally, workers=0, store_up=True, restarts=tally.restarts + restarts)

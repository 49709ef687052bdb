"""The metrics of all workers on one address, which every worker can show.

Each worker writes its counters into a file of its own, in a directory that only the workers can enter. It replaces the file
every ``RENEWAL_S``, and also before it answers ``/metrics``. Everything that was ever shown is therefore in the files, and no
later response of any worker shows a lower count. The counts of the other workers are at most ``RENEWAL_S`` old.

A new worker continues from the file of the worker that it replaces. Counts that a killed worker had not written yet are lost,
but they were never shown.
"""

import asyncio
import fcntl
import logging
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from app.api.metrics import LoadState, WorkerMetrics
from app.products.reservation import HeldUnits

RENEWAL_S = 0.25
SHOWN_S = 1.0
"""How long the text that one worker made is shown by all."""
_SHOWN, _LOCK = "shown", "lock"
_GONE_S = 5.0
"""Age of a file after which its worker is treated as dead. Its counters are still added, and its gauges are ignored."""
_log = logging.getLogger("larder")


class SharedMetrics:
    """The counters of all workers, as one worker sees them: it writes its own file and reads everybody's.

    Args:
        directory: the directory of the files.
        number: the number of this worker.
        clock: a clock that all workers share, in seconds.
    """

    def __init__(self, directory: Path, number: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory = directory
        self.number = number
        self._file = directory / str(number)
        self._clock = clock
        self._failing = False
        self._before = _counts_of(_read(self._file), restarts=1) if self._file.exists() else WorkerMetrics()
        self._renew(WorkerMetrics())

    async def keep(self, live: Callable[[], WorkerMetrics]) -> None:
        """Write this worker's file every ``RENEWAL_S`` until cancelled, and then a last time."""
        try:
            while True:
                self._renew(live())
                await asyncio.sleep(RENEWAL_S)
        finally:
            self._renew(live())

    def total(self, live: WorkerMetrics, gone_s: float = _GONE_S) -> WorkerMetrics:
        """Return the sum of all workers' counters.

        Args:
            live: the counts of this process since its start.
            gone_s: age of a file after which its worker does not count as alive.
        """
        total = self._renew(live)
        for path in self._file.parent.glob("[0-9]*"):
            if path.name.isdecimal() and path != self._file:
                sibling = _read(path)
                total += sibling if self._clock() - sibling.taken_at < gone_s else _counts_of(sibling)
        return total

    def shown(self, live: Callable[[], WorkerMetrics], render: Callable[[WorkerMetrics], bytes]) -> bytes:
        """Return the metrics of all workers as text, which is made at most once in ``SHOWN_S``.

        The text stands in a file that only the holder of a lock replaces. What a worker shows is therefore never older than
        what another one has shown before.
        """
        try:
            with (self._file.parent / _LOCK).open("ab") as lock:
                return self._young() or self._replaced(lock, live, render)
        except OSError:  # the text cannot be shared: the directory is removed, or the disk is full
            return render(self.total(live()))

    def _replaced(self, lock: IO[bytes], live: Callable[[], WorkerMetrics], render: Callable[[WorkerMetrics], bytes]) -> bytes:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Another worker makes the text. It may have been stopped meanwhile, so nobody waits for it.
            return self._young(_GONE_S) or render(self.total(live()))
        if (young := self._young()) is not None:
            return young
        text = render(self.total(live()))
        new = self._file.parent / f"{_SHOWN}.new"
        new.write_bytes(b"%.6f\n%b" % (self._clock(), text))
        new.replace(self._file.parent / _SHOWN)
        return text

    def _young(self, life_s: float = SHOWN_S) -> bytes | None:
        try:
            made_at, _, text = (self._file.parent / _SHOWN).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        return text if self._clock() - float(made_at) < life_s else None

    def _renew(self, live: WorkerMetrics) -> WorkerMetrics:
        own = replace(self._before + live, taken_at=self._clock())
        try:
            self._write(own)
        except FileNotFoundError:
            pass  # the parent is dead and the directory removed, so this worker is about to end
        except OSError as error:
            if not self._failing:
                _log.warning("the metrics of this worker cannot be written for the others: %s", error)
            self._failing = True
        else:
            self._failing = False
        return own

    def _write(self, metrics: WorkerMetrics) -> None:
        new = self._file.with_suffix(".new")
        new.write_bytes(pickle.dumps(metrics))
        new.replace(self._file)


def _read(path: Path) -> WorkerMetrics:
    metrics: WorkerMetrics = pickle.loads(path.read_bytes())  # noqa: S301 - written by our own workers; nobody else can enter the directory
    return metrics


def _counts_of(metrics: WorkerMetrics, restarts: int = 0) -> WorkerMetrics:
    """Return the part of the counters that is kept when their worker is dead."""
    return replace(
        metrics,
        requests=metrics.requests.without_state(),
        workers=0,
        store_up=True,
        restarts=metrics.restarts + restarts,
        load=LoadState(),
        keys_readable=True,
        accepted=metrics.accepted.counts(),
        held=HeldUnits(),
    )

"""The log of faults: which fault was active where and when, on the clock of the histories."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

EVERYWHERE = -1


@dataclass(slots=True)
class Fault:
    """One fault. ``layer`` is redis, postgres, service, rows, ledger, suppliers, sql or machine.

    ``instance`` is a number or ``EVERYWHERE``. ``keys`` has the affected products; it is empty if all are affected.
    """

    kind: str
    layer: str
    instance: int
    began: float
    ended: float | None = None
    keys: tuple[str, ...] = ()

    def touches(self, instance: int | None, since: float, until: float) -> bool:
        """Return whether the fault affected an instance (``None`` means any) in that time."""
        in_time = self.began <= until and (self.ended is None or self.ended >= since)
        return in_time and (instance is None or self.instance in (EVERYWHERE, instance))

    def line(self, since: float) -> str:
        """Return the fault as a line of an excerpt."""
        end = "still on  " if self.ended is None else f"{self.ended - since:9.4f}"
        where = "everywhere" if self.instance == EVERYWHERE else f"instance {self.instance}"
        return f"{self.began - since:9.4f} … {end}  -- fault {self.kind}, {where}"


class FaultLog:
    """All faults so far."""

    def __init__(self) -> None:
        self.all: list[Fault] = []
        self.counts: Counter[str] = Counter()

    @contextmanager
    def on(self, kind: str, layer: str, instance: int = EVERYWHERE, keys: Iterable[str] = ()) -> Iterator[Fault]:
        """Log a fault that lasts as long as the block."""
        fault = Fault(kind, layer, instance, time.monotonic(), keys=tuple(keys))
        self.all.append(fault)
        self.counts[kind] += 1
        try:
            yield fault
        finally:
            fault.ended = time.monotonic()

    def overlapping(self, layers: Collection[str], instance: int | None, since: float, until: float) -> bool:
        """Return whether a fault of these layers affected an instance (``None`` means any) in that time."""
        return any(fault.touches(instance, since, until) for fault in reversed(self.all) if fault.layer in layers)

    def holding(self, keys: Collection[str], since: float, until: float) -> bool:
        """Return whether a foreign transaction held one of these products in that time."""
        return any(
            fault.layer == "rows" and not set(fault.keys).isdisjoint(keys) and fault.touches(None, since, until)
            for fault in reversed(self.all)
        )

"""Which fault was on where and when, on the clock of the histories."""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

EVERYWHERE = -1


@dataclass(slots=True)
class Fault:
    """One fault. ``layer``: redis, postgres, service or sql. ``instance``: whose, or ``EVERYWHERE``."""

    kind: str
    layer: str
    instance: int
    began: float
    ended: float | None = None

    def line(self, since: float) -> str:
        """Give it as a line of an excerpt."""
        end = "still on  " if self.ended is None else f"{self.ended - since:9.4f}"
        where = "everywhere" if self.instance == EVERYWHERE else f"instance {self.instance}"
        return f"{self.began - since:9.4f} … {end}  -- fault {self.kind}, {where}"


class FaultLog:
    """All faults so far."""

    def __init__(self) -> None:
        self.all: list[Fault] = []
        self.counts: Counter[str] = Counter()

    @contextmanager
    def on(self, kind: str, layer: str, instance: int = EVERYWHERE) -> Iterator[Fault]:
        """Log a fault that lasts as long as the block."""
        fault = Fault(kind, layer, instance, time.monotonic())
        self.all.append(fault)
        self.counts[kind] += 1
        try:
            yield fault
        finally:
            fault.ended = time.monotonic()

    def overlapping(self, layers: Collection[str], instance: int | None, since: float, until: float) -> bool:
        """Tell whether a fault of these layers touched an instance (``None``: any) in that time."""
        for fault in reversed(self.all):
            if fault.began > until or fault.layer not in layers or (fault.ended is not None and fault.ended < since):
                continue
            if instance is None or fault.instance in (EVERYWHERE, instance):
                return True
        return False

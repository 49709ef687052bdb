"""Liveness: the reads and writes that must go on while something is broken elsewhere. They are observed on every instance.

- The fence is renewed while one instance reaches both servers. Such an instance has hits on a product that is never written.
- A write to a free product is answered within its budget, whatever rows others hold.

An instance is judged only while it has no fault itself: it, its two servers and the machine have had none since the cache was
last seen trusted everywhere, or for as long as it may take until another server is trusted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.harness import stalls
from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S, PROBE, Cluster, Instance
from tests.harness.faultlog import Fault, FaultLog
from tests.harness.workload import Order, Workload

TAKES_OVER_S = FENCE_TTL_S + 3 * AUDIT_INTERVAL_S
"""Largest TTL, two intervals and one audit: after a change of server or of database hits are back."""
GAP_S = 1.0
"""Two intervals, after which an instance that left the claim to another one audits again."""
WRITE_BUDGET_S = FENCE_TTL_S + 2 * AUDIT_INTERVAL_S
"""The longest settling, plus the time that PostgreSQL needs on a busy machine."""
_OWN = ("redis", "postgres", "service")
_CHANGES_OF_SERVER = ("redis-other",)
_READ_PAUSE_S, _WRITE_PAUSE_S = 0.05, 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """One request to an instance, and whether its answer was as expected."""

    instance: int
    called: float
    returned: float
    good: bool


class Looks:
    """The observations of every instance. ``judge`` checks those since the last call."""

    def __init__(self, faults: FaultLog) -> None:
        self.counts: Counter[str] = Counter()
        self.longest_gap_s = 0.0
        self.longest_write_s = 0.0
        self.reads: list[Look] = []
        """Reads of a product that is never written. Good ones are hits."""
        self.writes: list[Look] = []
        """Writes to products that nobody else writes or holds. Good ones were acknowledged."""
        self.trusted: list[float] = []
        """The moments at which every instance had just answered with a hit."""
        self._faults = faults

    def judge(self) -> list[str]:
        """Return the violations since the last call, each a sentence. Call it while no request is under way."""
        violations = [text for number in sorted({look.instance for look in self.reads}) for text in self._gaps(number)]
        violations += self._late_writes()
        self.reads.clear()
        self.writes.clear()
        del self.trusted[:-1]
        return violations

    def _gaps(self, instance: int) -> list[str]:
        """Return the violations in which an instance without a fault had no hit for too long."""
        found: list[str] = []
        gap: list[Look] = []
        for look in self.reads:
            if look.instance != instance:
                continue
            well = self._well(look, _OWN)
            self.counts["live: reads at an instance that is well"] += well
            self.counts["live: of these while something was broken elsewhere"] += well and self._broken(look)
            self.counts["live: of these hits"] += well and look.good
            if well and not look.good:
                gap.append(look)
                continue
            found += self._gap(gap)
            gap = []
        return found + self._gap(gap)

    def _gap(self, looks: Sequence[Look]) -> list[str]:
        if not looks:
            return []
        seconds = looks[-1].returned - looks[0].called
        self.longest_gap_s = max(self.longest_gap_s, seconds)
        if seconds <= GAP_S:
            return []
        text = f"liveness: instance {looks[0].instance} reached both servers and had no hit for {seconds:.2f} s"
        return [f"{text}: {self._about(looks[0].called, looks[-1].returned)}"]

    def _late_writes(self) -> list[str]:
        found = []
        for look in self.writes:
            if not self._well(look, (*_OWN, "ledger")):
                continue
            seconds = look.returned - look.called
            self.counts["live: writes to free products at an instance that is well"] += 1
            self.counts["live: of these while rows were held"] += self._faults.overlapping(
                ("rows",), None, look.called, look.returned
            )
            self.longest_write_s = max(self.longest_write_s, seconds)
            if not look.good or seconds > WRITE_BUDGET_S:
                text = f"liveness: a write to a free product at instance {look.instance}"
                text += f" took {seconds:.2f} s" if look.good else f" failed after {seconds:.2f} s"
                found.append(f"{text}: {self._about(look.called, look.returned)}")
        return found

    def _broken(self, look: Look) -> bool:
        return self._faults.overlapping((*_OWN, "rows", "ledger"), None, look.called, look.returned)

    def _well(self, look: Look, layers: Sequence[str]) -> bool:
        """Return whether neither the instance nor its connections to the servers had a fault that may still have effects."""
        since = max([look.called - TAKES_OVER_S, *(moment for moment in self.trusted if moment <= look.called)])
        if self._faults.overlapping((*layers, stalls.LAYER), look.instance, since, look.returned):
            return False
        # While one instance has another Redis, the trust is where auditors can work: after a fault elsewhere perhaps there.
        elsewhere = [f for f in self._faults.all if f.kind in _CHANGES_OF_SERVER and f.touches(None, since, look.returned)]
        return not any(self._others(fault, since, look.returned) for fault in elsewhere)

    def _others(self, change: Fault, since: float, until: float) -> bool:
        return any(
            fault is not change and fault.layer in _OWN and fault.touches(None, min(since, change.began - TAKES_OVER_S), until)
            for fault in self._faults.all
        )

    def _about(self, since: float, until: float) -> str:
        lines = [f.line(since).strip() for f in self._faults.all if f.touches(None, since - TAKES_OVER_S, until)]
        return "; ".join(lines) or "no fault"


class Liveness:
    """Two clients of each instance, which send requests all the time."""

    def __init__(self, cluster: Cluster, workload: Workload, faults: FaultLog) -> None:
        self.keys = [f"free-{instance.number}" for instance in cluster.instances]
        """Products that nobody else writes or holds."""
        self.looks = Looks(faults)
        self._cluster = cluster
        self._workload = workload
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def fill(self) -> None:
        """Create the free products."""
        for instance, key in zip(self._cluster.instances, self.keys, strict=True):
            mark = self._workload.next_mark()
            document = {"name": f"e0 {key}", "price_cents": mark}
            await self._workload.write(instance, Order("put", (key,), mark, "PUT", f"/products/{key}", document))

    def start(self) -> None:
        """Start the clients."""
        self._stopping = False
        self._tasks = [
            asyncio.create_task(look(instance, key))
            for instance, key in zip(self._cluster.instances, self.keys, strict=True)
            for look in (self._read, self._write)
        ]

    async def stop(self) -> None:
        """Stop the clients after the requests under way."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        self._tasks = []

    def trusted(self) -> None:
        """Record that every instance has just answered with a hit."""
        self.looks.trusted.append(time.monotonic())

    async def _read(self, instance: Instance, _key: str) -> None:
        while not self._stopping:
            called = time.monotonic()
            hit = await instance.hits(PROBE)
            self.looks.reads.append(Look(instance.number, called, time.monotonic(), hit))
            await asyncio.sleep(_READ_PAUSE_S)

    async def _write(self, instance: Instance, key: str) -> None:
        while not self._stopping:
            called, mark = time.monotonic(), self._workload.next_mark()
            order = Order("patch", (key,), mark, "PATCH", f"/products/{key}", {"price_cents": mark})
            done = await self._workload.write(instance, order)
            self.looks.writes.append(Look(instance.number, called, time.monotonic(), done))
            await asyncio.sleep(_WRITE_PAUSE_S)

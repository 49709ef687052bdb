"""One run of outages: periods of one to three faults at once, each followed by a recovery, in rounds that end with a check."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.harness import stalls
from tests.harness.cluster import AUDIT_INTERVAL_S, FENCE_TTL_S, PROBE, start_cluster
from tests.harness.faultlog import FaultLog
from tests.harness.faults import KINDS, Kind, Scene
from tests.harness.history import HAND_BOUNDS, History, Judgement
from tests.harness.spare import start_spare
from tests.harness.workload import Load, Workload
from tests.outages.liveness import TAKES_OVER_S, Liveness
from tests.outages.suppliers import SupplierClients
from tests.outages.suppliers_program import WithSuppliers, create_suppliers

ROUND_S = 60.0
HEALED_S = FENCE_TTL_S + AUDIT_INTERVAL_S
"""Time after the last fault until every instance has hits: the rest of a fence's lifetime, and an audit."""
_CHANGES_OF_SERVER = ("redis-other", "redis-kill-empty", "redis-kill-snapshot", "two-databases")
"""Faults after which another server may have to become trusted, which takes up to ``TAKES_OVER_S``.

A Redis that was killed comes back as another server, whose fence waits for the last one of the server before.
"""


@dataclass(slots=True)
class Outcome:
    """The result of a run."""

    seed: int
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    metrics: Counter[str] = field(default_factory=Counter)
    healing_s: list[float] = field(default_factory=list)
    longest_s: dict[str, float] = field(default_factory=dict)
    """The longest times, in seconds."""
    violations: list[str] = field(default_factory=list)
    excerpt: list[str] = field(default_factory=list)
    dump: list[dict[str, object]] = field(default_factory=list)


async def run(
    directory: Path,
    *,
    seconds: float,
    seed: int,
    load: Load | None = None,
    policies: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run for about ``seconds``, or until something is violated.

    ``policies`` are those from which every write draws, separated by commas; all if there are none.
    """
    chance = Random(seed)
    async with AsyncExitStack() as opened:
        cluster = await opened.enter_async_context(
            start_cluster(directory, program=WithSuppliers(policies), prepare=create_suppliers)
        )
        log = FaultLog()
        history = History(log, HAND_BOUNDS, epochs=(0,))
        workload = Workload(cluster, history, log, load or Load(), chance)
        spare = await opened.enter_async_context(start_spare(directory, cluster, [*workload.hot, *workload.cold]))
        scene = Scene(cluster, workload, history, log, chance, spare)
        liveness = Liveness(cluster, workload, log)
        suppliers = SupplierClients(cluster, workload, chance)
        outcome = Outcome(seed)
        meter = _Meter(scene, outcome.metrics)
        await workload.fill()
        await liveness.fill()
        await suppliers.fill()
        await cluster.until_trusted()
        liveness.trusted()
        deck = _Deck(chance)
        began = time.monotonic()
        while not outcome.violations and time.monotonic() < began + seconds:
            workload.start()
            liveness.start()
            suppliers.start()
            stalls_log = asyncio.create_task(stalls.log_stalls(log))
            end = min(time.monotonic() + ROUND_S, began + seconds)
            while time.monotonic() < end and not outcome.violations:
                kinds = await _period(scene, deck)
                workload.check_alive()
                await _heal(scene, outcome, kinds)
                liveness.trusted()
                await meter.read()
            await liveness.stop()
            await suppliers.stop()
            await workload.stop()
            stalls_log.cancel()
            await _read_everything(scene, [*liveness.keys, *suppliers.products])
            await suppliers.read_all()
            judgement = history.judge()
            judgement.violations += liveness.looks.judge()
            _add(outcome, judgement, history)
            history.forget()
            outcome.seconds = time.monotonic() - began
            reads = history.counts["reads checked"]
            say(f"{outcome.seconds:6.0f} s  {reads:8d} reads checked, {len(outcome.violations)} violations")
        outcome.counts, outcome.faults = history.counts + liveness.looks.counts, log.counts
        outcome.longest_s = {
            "without a hit at an instance that is well": liveness.looks.longest_gap_s,
            "of a write to a free product at an instance that is well": liveness.looks.longest_write_s,
        }
        return outcome


async def _period(scene: Scene, deck: "_Deck") -> list[str]:
    """Run some faults at once; return their kinds when all are over."""
    number = scene.chance.choices((1, 2, 3), (3, 4, 3))[0]
    drawn = deck.draw(number, len(scene.cluster.instances))
    async with asyncio.TaskGroup() as group:
        for kind, instance in drawn:
            group.create_task(_later(scene, kind, instance))
    return [kind.name for kind, _ in drawn]


async def _later(scene: Scene, kind: Kind, instance: int) -> None:
    await asyncio.sleep(scene.chance.uniform(0.0, 0.5))
    await kind.act(scene, scene.cluster.instances[instance])


async def _heal(scene: Scene, outcome: Outcome, kinds: Sequence[str]) -> None:
    bound_s = TAKES_OVER_S if any(kind in _CHANGES_OF_SERVER for kind in kinds) else HEALED_S
    healing_from = time.monotonic()
    try:
        taken_s = await scene.cluster.until_trusted()
    except TimeoutError as error:
        outcome.violations.append(f"does not heal: {error}")
    else:
        outcome.healing_s.append(taken_s)
        if taken_s > bound_s and not scene.log.overlapping((stalls.LAYER,), None, healing_from - bound_s, time.monotonic()):
            outcome.violations.append(f"liveness: hits everywhere only {taken_s:.2f} s after {', '.join(kinds)}")
    await asyncio.sleep(scene.chance.uniform(0.2, 1.0))


async def _read_everything(scene: Scene, free: Sequence[str]) -> None:
    """Check G2 and the final state: read every product once from PostgreSQL and once from every instance."""
    keys = (*scene.workload.hot, *scene.workload.cold, *free)
    for instance in scene.cluster.instances:
        for key in keys:
            await scene.workload.read(instance, key)
    for key in (*keys, PROBE):
        await scene.workload.read(scene.cluster.instances[0], key, "read no-cache", "Cache-Control: no-cache\r\n")


def _add(outcome: Outcome, judgement: Judgement, history: History) -> None:
    outcome.violations += judgement.violations
    if outcome.violations:
        outcome.excerpt = judgement.excerpt
        outcome.dump = list(history.dump())


class _Deck:
    """Draws kinds of faults so that each comes as often as any other."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._kinds: list[Kind] = []

    def draw(self, number: int, instances: int) -> list[tuple[Kind, int]]:
        """Draw up to ``number`` kinds that are possible together, each with an instance."""
        drawn: list[tuple[Kind, int]] = []
        claimed: set[str] = set()
        if len(self._kinds) < number:
            fresh = list(KINDS)
            self._chance.shuffle(fresh)
            self._kinds = fresh + self._kinds
        for kind in self._kinds[: -number - 3 : -1]:
            instance = self._chance.randrange(instances)
            claim = kind.claim.format(instance)
            if claim not in claimed and len(drawn) < number:
                claimed.add(claim)
                drawn.append((kind, instance))
                self._kinds.remove(kind)
        return drawn


class _Meter:
    """The sums of the services' own counters across their restarts."""

    def __init__(self, scene: Scene, totals: Counter[str]) -> None:
        self._scene = scene
        self._totals = totals
        self._last: dict[int, dict[str, float]] = {}

    async def read(self) -> None:
        for instance in self._scene.cluster.instances:
            now = await instance.metrics()
            last = self._last.get(instance.number, {})
            for name, value in now.items():
                if "_total" in name:
                    before = last.get(name, 0.0)
                    self._totals[name] += int(value - before if value >= before else value)
            if now:
                self._last[instance.number] = now

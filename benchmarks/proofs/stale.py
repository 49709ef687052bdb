"""``python -m benchmarks.proofs.stale --minutes-each 1 --seed N``: stale reads of Larder and of others, by the same checker.

Each system gets servers of its own, three processes, the same clients, and the same schedule of faults. docs/PERFORMANCE.md
says what is counted. The exit status is 1 when Larder showed the past.
"""

import argparse
import asyncio
import datetime as dt
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from benchmarks.peers.environment import peer, set_up
from tests.harness import loop
from tests.harness.checker import check
from tests.harness.cluster import Instance, Program, larder, start_cluster
from tests.harness.faultlog import FaultLog
from tests.harness.faults import KINDS, Kind, Scene
from tests.harness.history import HAND_BOUNDS, History
from tests.harness.servers import session_directory
from tests.harness.workload import Load, Workload, count

PERIOD_S = 3.5
"""From the beginning of one group of faults to the next: the longest fault and about a second without any."""
LATEST_S = 0.5
APPLICABLE = (
    "redis-cut",
    "redis-refuse",
    "redis-delay",
    "redis-hold",
    "redis-swallow",
    "redis-stop",
    "redis-kill-empty",
    "redis-kill-snapshot",
    "service-kill",
    "sql-update",
)
"""The kinds of fault that mean the same to every system; PostgreSQL stays well, as the peers promise nothing about it."""


@dataclass(frozen=True, slots=True)
class System:
    """Who is measured. ``audits``: ready when it trusts its cache, not only when it answers."""

    name: str
    program: Program
    audits: bool = False


SYSTEMS = (
    System("Larder", larder, audits=True),
    System("textbook write-through", peer("textbook")),
    System("FastAPI + cashews", peer("with_cashews")),
    System("FastAPI + aiocache", peer("with_aiocache")),
)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault to come: when it begins, its kind, its instance, and the seed for what is random in it."""

    at_s: float
    kind: Kind
    instance: int
    seed: int


@dataclass(slots=True)
class Count:
    """What one round found. ``lasting_s``: how long after an acknowledgement the past was still shown, at most."""

    checked: int
    stale: int
    stale_but_for_sql: int
    lasting_s: float
    writes: int
    failed: int
    faults: int
    problems: list[str] = field(default_factory=list)

    @property
    def per_million(self) -> float:
        """Stale reads in a million checked ones."""
        return 1e6 * self.stale / self.checked if self.checked else 0.0

    @property
    def per_million_but_for_sql(self) -> float:
        """The same, had nobody changed a row by hand."""
        return 1e6 * self.stale_but_for_sql / self.checked if self.checked else 0.0


def plan(seed: int, seconds: float, instances: int) -> list[PlannedFault]:
    """Give the schedule of a seed: groups of one to three faults, each kind as often as any other."""
    chance = Random(seed)
    kinds = [kind for kind in KINDS if kind.name in APPLICABLE]
    planned: list[PlannedFault] = []
    deck: list[Kind] = []
    at_s = 0.5
    while at_s + PERIOD_S <= seconds:
        claimed: set[str] = set()
        for _ in range(chance.choices((1, 2, 3), (4, 4, 2))[0]):
            deck = deck or chance.sample(kinds, len(kinds))
            instance = chance.randrange(instances)
            claim = deck[-1].claim.format(instance)
            if claim not in claimed:
                claimed.add(claim)
                begins_s = at_s + chance.uniform(0.0, LATEST_S)
                planned.append(PlannedFault(begins_s, deck.pop(), instance, chance.randrange(2**32)))
        at_s += PERIOD_S
    return planned


class Counters(Workload):
    """The clients of the outages, doing only what every system offers: GET a product, and count its stock."""

    async def fill(self) -> None:
        """Create all products."""
        async with await self._cluster.session() as session:
            for key in (*self.hot, *self.cold):
                await session.execute("INSERT INTO products (id, name, price_cents) VALUES (%s, %s, 1)", [key, f"e0 {key}"])

    async def _reader(self) -> None:
        while not self._stopping:
            served = await self.read(self._chance.choice(self._cluster.instances), self._key())
            await asyncio.sleep(self._chance.expovariate(1 / self._load.reader_pause_s) if served else 0.05)

    async def _write_somehow(self, instance: Instance, key: str) -> bool:
        return await self.write(instance, count(key, self.next_mark()))


async def measure(directory: Path, system: System, planned: Sequence[PlannedFault], *, seconds: float, seed: int) -> Count:
    """Run one system for ``seconds`` under a schedule, which may be empty, and judge its history."""
    directory.mkdir()
    directory.chmod(0o711)
    async with start_cluster(directory, program=system.program) as cluster:
        log = FaultLog()
        history = History(log, HAND_BOUNDS)
        workload = Counters(cluster, history, log, Load(), Random(seed))
        await workload.fill()
        if system.audits:
            await cluster.until_trusted()
        workload.start()
        await _carry_out(Scene(cluster, workload, history, log, Random(seed)), planned, seconds)
        await workload.stop()
        for instance in cluster.instances:
            for key in (*workload.hot, *workload.cold):
                await workload.read(instance, key)
        return _judge(history, log)


async def _carry_out(scene: Scene, planned: Sequence[PlannedFault], seconds: float) -> None:
    began = time.monotonic()

    async def one(fault: PlannedFault) -> None:
        await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
        # Its own chance: how long it lasts must not depend on what the system did before.
        await fault.kind.act(replace(scene, chance=Random(fault.seed)), scene.cluster.instances[fault.instance])

    for group in _groups(planned):
        async with asyncio.TaskGroup() as together:
            for fault in group:
                together.create_task(one(fault))
        scene.workload.check_alive()
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    scene.workload.check_alive()


def _groups(planned: Sequence[PlannedFault]) -> Iterator[list[PlannedFault]]:
    """Yield the faults of one period after the other: a fault that takes long delays the next period, never joins it."""
    group: list[PlannedFault] = []
    for fault in planned:
        if group and fault.at_s > group[0].at_s + LATEST_S + PERIOD_S / 2:
            yield group
            group = []
        group.append(fault)
    if group:
        yield group


def _judge(history: History, log: FaultLog) -> Count:
    judgement = history.judge()
    violations = judgement.verdict.violations
    # A change by hand is a write of kind "sql-…"; without those, only what the system itself acknowledged binds.
    own = check(history.reads, [write for write in history.writes if not write.kind.startswith("sql-")])
    return Count(
        checked=judgement.verdict.checked,
        stale=len(violations),
        stale_but_for_sql=len(own.violations),
        lasting_s=max((violation.read.called - violation.missed.returned for violation in own.violations), default=0.0),
        writes=history.counts["writes acknowledged"],
        failed=len(history.failures),
        faults=log.counts.total(),
        problems=[*judgement.violations, *judgement.excerpt],
    )


_HEAD = (
    "system",
    "faults",
    "reads checked",
    "writes",
    "stale reads",
    "per million",
    "per million, but for SQL by hand",
    "longest, s",
    "failed requests",
)


def table(rows: Sequence[tuple[str, Count]]) -> str:
    """Write the counts as a table in Markdown."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|" + "---:|" * (len(_HEAD) - 1)]
    for name, found in rows:
        cells = (
            name,
            str(found.faults) if found.faults else "none",
            f"{found.checked:,}",
            f"{found.writes:,}",
            f"{found.stale:,}",
            f"{found.per_million:,.0f}",
            f"{found.per_million_but_for_sql:,.0f}",
            f"{found.lasting_s:.1f}" if found.stale_but_for_sql else "-",
            f"{found.failed:,}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


async def _measure_all(minutes_each: float, seed: int, say: Callable[[str], None]) -> list[tuple[str, Count]]:
    seconds = minutes_each * 60
    faults = plan(seed, seconds, 3)
    rows: list[tuple[str, Count]] = []
    async with session_directory() as directory:
        for planned in ([], faults):
            for system in SYSTEMS:
                found = await measure(directory / f"round-{len(rows)}", system, planned, seconds=seconds, seed=seed)
                rows.append((system.name, found))
                say(f"{system.name}, {found.faults or 'no'} faults: {found.stale:,} of {found.checked:,} reads stale")
                if system.audits and found.problems:
                    say("\n  ".join(found.problems[:40]))
    return rows


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Measure every system, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs.stale", description=__doc__)
    parser.add_argument("--minutes-each", type=float, default=1.0, help="per system, without and with faults (%(default)g)")
    parser.add_argument("--seed", type=int, help="of the faults and the clients (default: by chance)")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    set_up()
    today = dt.datetime.now(tz=dt.UTC).date()
    _say(f"python -m benchmarks.proofs.stale --minutes-each {arguments.minutes_each:g} --seed {seed}, on {today}")
    rows = loop.run(_measure_all(arguments.minutes_each, seed, _say))
    _say("\n" + table(rows))
    return int(any(found.problems for name, found in rows if name == SYSTEMS[0].name))


if __name__ == "__main__":
    sys.exit(main())

"""One history: a seed in, a judged record out."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.cache.config import CacheConfig
from app.cache.write_through import Status
from tests.fakes.rows import NAMESPACE, SUPPLIERS, table_of
from tests.harness.checker import Verdict, check
from tests.limits import cache_config
from tests.simulation.faults import Chance, Plan
from tests.simulation.loop import Deadlock, SeededLoop
from tests.simulation.nemesis import DEEDS, POSTGRES_DEEDS, PROCESS_DEEDS, SUPPLIER_DEEDS, Nemesis
from tests.simulation.parts import SHIPPED, Parts
from tests.simulation.workload import Client
from tests.simulation.world import Process, World

PATIENCE_S = 60.0
"""Virtual seconds in which whatever was begun must end once all is well."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The shape of one history; ``of`` draws it from a seed."""

    keys: tuple[str, ...]
    hosts: tuple[str, ...]
    clients: int
    duration_s: float
    think_s: float
    deeds: tuple[str, ...]
    deed_pause_s: float
    redis_rate: float
    postgres_rate: float
    config: CacheConfig
    publish_rate: float = 0.0
    """The share of publishes that fail, if it is another than ``redis_rate``."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces of its keys."""
        both = any(table_of(key) == table_of(SUPPLIERS) for key in self.keys)
        return (NAMESPACE, SUPPLIERS) if both else (NAMESPACE,)

    @classmethod
    def of(cls, chance: random.Random) -> "Scenario":
        """A scenario by chance. Each history has only some kinds of faults, so that rare ones are not drowned by others."""
        both = chance.random() < 0.5
        further = ("suppliers/a", "suppliers/b")[: chance.choice((1, 2))] if both else ()
        possible = DEEDS + SUPPLIER_DEEDS if both else DEEDS
        interval_ms, ttl_ms = chance.choice(((150, 400), (200, 600), (300, 1_000)))
        return cls(
            keys=("a", "b", "c")[: chance.choice((1, 1, 2, 3))] + further,
            hosts=("one", "two", "three")[: chance.choice((2, 2, 3))],
            clients=chance.choice((1, 2, 3)),
            duration_s=chance.choice((1.0, 2.0, 4.0)),
            think_s=chance.choice((0.02, 0.05, 0.15)),
            deeds=tuple(deed for deed in possible if chance.random() < chance.choice((0.0, 0.15, 0.5))),
            deed_pause_s=chance.choice((0.1, 0.3, 0.8)),
            redis_rate=chance.choice((0.0, 0.0, 0.02, 0.1)),
            postgres_rate=chance.choice((0.0, 0.0, 0.02, 0.1)),
            config=cache_config(
                audit_interval_ms=interval_ms,
                audit_page_rows=chance.choice((1, 1_000)),
                fence_ttl_ms=chance.choice((ttl_ms, 2 * ttl_ms)),
                fence_ttl_max_ms=2 * ttl_ms,
                settle_poll_ms=chance.choice((20, 50)),
            ),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A judged history."""

    seed: int
    verdict: Verdict
    broken: tuple[str, ...]
    counts: Counter[str]
    digest: str
    steps: int
    virtual_s: float
    trace: tuple[str, ...]

    @property
    def bad(self) -> bool:
        """Whether anything was violated."""
        return bool(self.broken or self.verdict.violations)

    def first(self) -> str:
        """The first violation, in words."""
        if self.verdict.violations:
            return str(self.verdict.violations[0])
        return self.broken[0] if self.broken else "nothing"


def simulate(
    seed: int,
    parts: Parts = SHIPPED,
    *,
    trace: bool = False,
    scenario: Scenario | None = None,
    plan: Plan | None = None,
    play: "Callable[[World, Scenario], Play] | None" = None,
) -> Outcome:
    """Run and judge the history of a seed."""
    chance = random.Random(seed)
    scenario = scenario or Scenario.of(chance)
    rates = {"redis": scenario.redis_rate, "publish": scenario.publish_rate, "postgres": scenario.postgres_rate}
    plan = plan or Chance(chance, rates)
    loop = SeededLoop(chance)
    world = World(loop, chance, plan, scenario.config, parts, namespaces=scenario.namespaces, trace=trace)
    run = (play or Play)(world, scenario)
    try:
        loop.run_until_complete(loop.create_task(run.play()))
        virtual_s, steps = loop.time(), loop.steps
        loop.run_until_complete(loop.create_task(run.clear_away()))
    except Deadlock as error:
        world.broken(f"lost wake-up: {error}")
        virtual_s, steps = loop.time(), loop.steps
    finally:
        loop.close()
    history = world.history
    history.counts.update({f"I/O {name}": count for name, count in world.network.counts.items()})
    return Outcome(
        seed,
        check(history.reads, history.writes),
        tuple(history.broken),
        history.counts,
        history.digest.hexdigest(),
        steps,
        virtual_s,
        tuple(history.trace or ()),
    )


class Play:
    """Plays one scenario in its world."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self._world = world
        self._scenario = scenario
        self._clients: list[tuple[Process, asyncio.Task[None]]] = []

    async def play(self) -> None:
        """Trouble first, then peace, in which everything must heal."""
        world, scenario = self._world, self._scenario
        world.postgres_is_troubled = bool(scenario.postgres_rate) or any(
            deed in POSTGRES_DEEDS + SUPPLIER_DEEDS for deed in scenario.deeds
        )
        # A stopped process may hold a row's lock.
        world.writes_may_fail = world.postgres_is_troubled or any(deed in PROCESS_DEEDS for deed in scenario.deeds)
        world.on_start = self._start_clients
        background = [world.spawn(world.keep_images())]
        for host in scenario.hosts:
            world.start_process(host)
        nemesis = Nemesis(world, scenario.keys, scenario.deeds, scenario.deed_pause_s)
        trouble = world.spawn(nemesis.run())
        await asyncio.sleep(scenario.duration_s)
        trouble.cancel()
        await nemesis.heal()
        world.network.plan = Chance(world.chance, {})
        world.note("WORLD", "peace")
        await self._finish_clients()
        await self._heal()
        for process in [*world.processes.values(), *world.graveyard]:
            for crowded in (sorted(set(source.crowded)) for source in process.sources if source.crowded):
                world.broken(f"G5: two loads at once in {process.name} of {crowded}")
        for unhandled in world.loop.unhandled:
            world.broken(f"unhandled: {unhandled}")
        for task in background:
            task.cancel()

    async def clear_away(self) -> None:
        """End every task, those of dead processes too."""
        world = self._world
        for process in [*world.processes.values(), *world.graveyard]:
            for wire in process.wires:
                wire.dead = True
            world.loop.resume(process.name)
        for _ in range(100):
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not rest:
                return
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=1)

    def _start_clients(self, process: Process) -> None:
        scenario = self._scenario
        for _ in range(scenario.clients):
            client = Client(self._world, process, scenario.keys, scenario.duration_s, scenario.think_s)
            self._clients.append((process, process.run(client.run())))

    async def _finish_clients(self) -> None:
        """Every operation ends: no wake-up was lost."""
        tasks = [task for process, task in self._clients if process.alive]
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE_S)
        for process, task in self._clients:
            if process.alive and not task.done():
                self._world.broken(f"lost wake-up: a client of {process.name} waits for ever: {task!r}")
            elif task.done() and not task.cancelled() and task.exception() is not None:
                self._world.broken(f"a client of {process.name} broke: {task.exception()!r}")

    async def _heal(self) -> None:
        """G4, and that the cache comes back: soon every process answers every key from its slot, with the present state."""
        world, keys = self._world, self._scenario.keys
        config = world.config
        healing_from = world.loop.time()
        while any(transaction.changed for transaction in world.postgres.open):  # a commit whose answer was lost may land
            await asyncio.sleep(0.05)
            if world.loop.time() > healing_from + PATIENCE_S:
                world.broken("a transaction stays open in peace")
                break
        await asyncio.sleep((config.fence_ttl_max_ms + 3 * config.audit_interval_ms) / 1_000)
        for process in world.processes.values():
            peace_from = world.loop.time()  # for each: a process that rested has dead connections to find out about
            client = Client(world, process, keys, 0.0, 0.0)
            for key in keys:
                while True:
                    answer = await client.read(key)
                    present = world.postgres.state(key)
                    if answer is None or answer.state != present:
                        world.broken(f"G4: in peace, {process.name} answers {answer}, but {present} is committed")
                        break
                    if answer.status is Status.HIT:
                        break
                    if world.loop.time() - peace_from > self._hits_again_s():
                        world.broken(f"the cache does not come back: {process.name} answers {key} with {answer.status}")
                        break
                    await asyncio.sleep(config.audit_interval_ms / 1_000)

    def _hits_again_s(self) -> float:
        """In how long every key must be hit again: a lease may be left."""
        world, config = self._world, self._world.config
        return world.lives.lease_s + (config.fence_ttl_max_ms + 4 * config.audit_interval_ms) / 1_000


def quiet(scenario: Scenario) -> Scenario:
    """The same scenario without faults."""
    return replace(scenario, deeds=(), redis_rate=0.0, postgres_rate=0.0)

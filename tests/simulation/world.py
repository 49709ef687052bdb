"""The world of one history: servers, processes of the shipped cache, clients, and what was recorded of them."""

import asyncio
import hashlib
import logging
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any, cast

from app.cache.caches import Caches, Part
from app.cache.config import CacheConfig
from app.cache.entity import Entity
from app.cache.history import hash_of
from app.cache.limits import Limits
from app.cache.policies import WritePolicy
from app.cache.ports import State, Watermark
from app.cache.postgres.table_write import TableTransactions
from app.cache.redis.store import RedisLinks
from app.cache.shared_audit import SharedCycle
from app.cache.stats import Stats
from app.cache.write_through import WriteThrough
from tests.fakes.redis import Data, Lifetimes, RedisServer
from tests.fakes.rows import NAMESPACE, Image, table_of
from tests.fakes.shared_audit import MemoryTransactions, space_of
from tests.fakes.source import MemorySource, open_audit_source
from tests.fakes.store import open_audit_store
from tests.harness.checker import Read, Write
from tests.simulation.faults import FaultyWire, Network, Plan
from tests.simulation.loop import PROCESS, SeededLoop
from tests.simulation.parts import Parts

REDIS_DEADLINE_S = 0.1
POSTGRES_DEADLINE_S = 0.6
IMAGES = 24
logging.getLogger("app.cache").setLevel(logging.CRITICAL)


@dataclass(slots=True)
class History:
    """What was recorded. Times are a count of recorded events, so that no two are equal."""

    reads: list[Read] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Properties other than G1 that did not hold."""
    counts: Counter[str] = field(default_factory=Counter)
    trace: list[str] | None = None
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    ticks: int = 0

    def tick(self) -> int:
        """The next moment."""
        self.ticks += 1
        return self.ticks


@dataclass(slots=True, eq=False)
class Attempt:
    """A write that a client wants done, known by its mark: a second try of it must not do it again."""

    mark: str
    content: str
    keys: tuple[str, ...]
    deletes: bool
    process: "Process | None" = None
    """Who tries at present."""


class World:
    """Servers, network, processes and record of one history."""

    def __init__(
        self,
        loop: SeededLoop,
        chance: random.Random,
        plan: Plan,
        config: CacheConfig,
        parts: Parts,
        *,
        namespaces: Sequence[str] = (NAMESPACE,),
        trace: bool,
    ) -> None:
        self.namespaces = namespaces
        self.loop = loop
        self.chance = chance
        self.parts = parts
        self.config = parts.config(config)
        self.history = History(trace=[] if trace else None)
        self.network = Network(loop, chance, plan, self.note)
        # Hosts whose clocks were never set alike: only differences on one of them may be used.
        redis_ahead_s, postgres_ahead_s = chance.uniform(0, 1_000), chance.uniform(0, 1_000)
        self.redis = [parts.redis(name, lambda: loop.time() + redis_ahead_s, self._stored) for name in ("red", "blue")]
        self.postgres = parts.postgres(lambda: loop.time() + postgres_ahead_s)
        if chance.random() < 0.9:
            # Else the first fence has to wait for those that may live, and a short history sees little of a trusted cache.
            self.postgres.know_history(*namespaces)
        self.redis[1].down = True
        self.master = self.redis[0]
        self.routes: dict[str, RedisServer] = {}
        self.processes: dict[str, Process] = {}
        self.graveyard: list[Process] = []
        self.redis_images: deque[Data] = deque(maxlen=IMAGES)
        self.postgres_images: deque[Image] = deque(maxlen=IMAGES)
        self.lives = Lifetimes(
            value_s=chance.choice((1.0, 60.0)), absent_s=chance.choice((0.5, 30.0)), lease_s=chance.choice((0.3, 3.0))
        )
        self.attempts: list[Attempt] = []
        """Writes that were begun and not acknowledged: somebody will try them again."""
        self.policies: tuple[WritePolicy | None, ...] = self.chance.choice(
            ((None,), (None,), (WritePolicy.ASIDE,), tuple(WritePolicy))
        )
        """Half of the histories use the shipped policy alone, a quarter ``aside``, and a quarter draws it for each write."""
        self.postgres_is_troubled = False
        self.writes_may_fail = False
        self.on_start: Callable[[Process], None] = lambda _: None

    def note(self, who: str, what: str) -> None:
        """Put a line into the trace, and into the digest that tells two histories apart."""
        line = f"{self.loop.time():9.4f} {self.history.ticks:5d} {who:8} {what}"
        self.history.digest.update(line.encode())
        if self.history.trace is not None:
            self.history.trace.append(line)

    def broken(self, what: str) -> None:
        """Record that a property does not hold."""
        self.history.broken.append(what)
        self.note("CHECK", what)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something that belongs to no process."""
        return self.loop.create_task(coroutine, context=Context())

    def draw_policy(self) -> WritePolicy | None:
        """The policy of the next write; ``None`` for the one of its process."""
        return self.chance.choice(self.policies)

    def start_process(self, name: str) -> "Process":
        """Start a process of the service, anew if it died."""
        process = Process(self, name, len(self.graveyard))
        self.processes[name] = process
        self.on_start(process)
        return process

    def order(self, epoch: str) -> int:
        """The order of an epoch."""
        return self.postgres.order_of_epoch[hash_of(epoch)]

    def master_has(self, watermark: Watermark) -> bool:
        """Whether the master's data may be those over which a watermark was set: then copies of its keys are its own keys."""
        server, held = self.master, self.master.data.watermark
        replid = watermark.server.rpartition(":")[2]
        same = held is not None and held.incarnation == watermark.incarnation
        return same or server.identity == watermark.server or replid == server.before

    def committed(self, state: State) -> bool:
        """Whether a state was ever committed, byte for byte."""
        return self.postgres.was_committed(state)

    async def keep_images(self) -> None:
        """Keep copies of both servers, for snapshots, dumps and servers that lag."""
        while True:
            self.redis_images.append(self.master.data.copy())
            self.postgres_images.append(self.postgres.image())
            await asyncio.sleep(0.05 + self.chance.random() * 0.2)

    def _stored(self, state: State) -> None:
        self.history.counts["slots stored"] += 1
        if not self.committed(state):
            self.broken(f"G2: {state} was put into its slot and never committed")


class Process:
    """One process of the service: the shipped cache and audit, over wires of its own, on a clock of its own."""

    def __init__(self, world: World, name: str, deaths: int) -> None:
        self.world = world
        self.name = f"{name}.{deaths}" if deaths else name
        self.host = name
        self.paused_s = 0.0
        self.tasks: list[asyncio.Task[None]] = []
        self.context = Context()
        self.context.run(PROCESS.set, self.name)
        network, parts, loop = world.network, world.parts, world.loop
        self.redis_wire = FaultyWire(network, self.name, "redis", REDIS_DEADLINE_S)
        self.postgres_wire = FaultyWire(network, self.name, "postgres", POSTGRES_DEADLINE_S)
        world.routes.setdefault(name, world.master)
        ahead_s = world.chance.uniform(0, 1_000)
        self.clock: Callable[[], float] = lambda: loop.time() + ahead_s
        # A deploy that changes the fence's life: not every instance has the same setting.
        config = replace(
            world.config, fence_ttl_ms=world.chance.choice((world.config.fence_ttl_ms, world.config.fence_ttl_max_ms))
        )
        self.sources: list[MemorySource] = []
        opened = [self._open(namespace, config) for namespace in world.namespaces]
        loop_of_audits = parts.loop(
            {part.entity.namespace: part.audit for part in opened},
            self._open_together,
            config,
            clock=self.clock,
            chance=world.chance,
        )
        self.entities = {part.entity.table: part.entity for part in opened}
        transactions = cast("TableTransactions", MemoryTransactions(world.postgres, self.postgres_wire))
        no_links = cast("RedisLinks", None)  # which only the metrics of the service look at
        self.caches = Caches(opened, transactions, no_links, loop_of_audits, Limits(), clock=self.clock)
        for part in opened:
            self.run(part.protocol.start())
        self.run(loop_of_audits.run())

    def _open(self, namespace: str, config: CacheConfig) -> Part:
        """Open the cache of one namespace."""
        world, parts, space = self.world, self.world.parts, space_of(namespace)
        source = parts.source(world.postgres, self.postgres_wire, namespace)
        self.sources.append(source)
        store = parts.store(self.route, self.redis_wire, world.chance, world.lives, space)
        history, stats = parts.history(), Stats()
        protocol = parts.cache(store, source, source, world.config, stats, history=history, clock=self.clock)
        audit = parts.audit(
            lambda: open_audit_store(self.route, self.redis_wire, parts.audit_store, space),
            lambda: open_audit_source(world.postgres, self.postgres_wire, namespace, parts.audit_source),
            config,
            stats,
            history=history,
            clock=self.clock,
        )
        return Part(Entity(namespace, 1, table_of(namespace), "id", (), _no_payload), protocol, history, stats, audit)

    @asynccontextmanager
    async def _open_together(self, namespaces: Sequence[str]) -> AsyncIterator[SharedCycle]:
        parts = self.world.parts
        source = parts.shared_source(self.world.postgres, self.postgres_wire)
        yield SharedCycle(parts.shared_store(self.route, self.redis_wire), source, namespaces)

    def cache_of(self, key: str) -> WriteThrough:
        """The cache of the table that a key belongs to."""
        return self.caches[self.entities[table_of(key)]].protocol

    @property
    def wires(self) -> tuple[FaultyWire, FaultyWire]:
        """Ways to Redis and PostgreSQL."""
        return self.redis_wire, self.postgres_wire

    @property
    def alive(self) -> bool:
        """Whether this process was not killed."""
        return not self.redis_wire.dead

    def route(self) -> RedisServer:
        """The Redis server that a new connection reaches."""
        return self.world.routes[self.host]

    def run(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something in this process."""
        task = self.world.loop.create_task(coroutine, context=self.context.copy())
        self.tasks.append(task)
        return task

    def kill(self) -> None:
        """SIGKILL: nothing of it runs again; what it sent may still arrive."""
        world = self.world
        for wire in self.wires:
            wire.dead = True
        world.loop.pause(self.name)
        world.graveyard.append(self)
        world.loop.call_later(world.chance.random(), world.postgres.forget, self.name, context=Context())

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after some seconds."""
        if self.world.loop.paused(self.name):
            return
        self.world.loop.pause(self.name)
        await asyncio.sleep(seconds)
        if self.alive:
            self.paused_s += seconds
            self.world.loop.resume(self.name)


def _no_payload(**_: object) -> bytes:
    raise AssertionError("the source in memory makes the payloads")

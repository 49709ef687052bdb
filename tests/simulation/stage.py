"""A stage for one schedule: members of a fleet over the fakes, on virtual time, whose every command a script can stop.

What chance would need very many seeds for is played here move by move, and judged by the same checker.
"""

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from app.cache.audit import Cycle
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.history import hash_of
from app.cache.ports import State
from app.cache.stats import Stats
from app.cache.write_through import Read as Answer
from app.cache.write_through import Status
from tests.checker import Read, Violation, Write, check
from tests.fakes.postgres import NAMESPACE, MemoryPostgres, Row
from tests.fakes.redis import RedisServer
from tests.fakes.source import Committed, MemorySource, open_audit_source, transact
from tests.fakes.store import MemoryStore, open_audit_store
from tests.fakes.wire import Disconnected
from tests.limits import cache_config
from tests.simulation.loop import SeededLoop
from tests.simulation.parts import SHIPPED, Parts, read_as_served

Reply = TypeVar("Reply")

FENCE_S = 2.0
CONFIG = cache_config(audit_interval_ms=2, fence_ttl_ms=2_000, fence_ttl_max_ms=2_000, settle_poll_ms=20)
TRIP_S = 0.001


@dataclass(slots=True)
class Stop:
    """Where one command waits, or lies after its sender gave it up."""

    lost: bool = False
    after: bool = False
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _opened: asyncio.Event = field(default_factory=asyncio.Event)
    _apply: Callable[[], object] | None = None

    async def enter(self, apply: Callable[[], object]) -> None:
        """The command comes here."""
        self._apply = apply
        self._arrived.set()
        if self.lost:
            raise Disconnected("no reply")
        await self._opened.wait()

    async def arrival(self) -> None:
        """Wait for the command."""
        await self._arrived.wait()

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()

    def land(self) -> None:
        """Carry out a command whose sender does not wait any more."""
        assert self._apply is not None
        self._apply()


class ScriptedWire:
    """A way to a server on which the script stops commands by name."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.cut = False
        """Whether no command gets through."""
        self._stops: dict[str, deque[Stop]] = defaultdict(deque)

    def hold(self, name: str) -> Stop:
        """The next command of this name waits before it reaches the server."""
        return self._stop(name, Stop())

    def hold_reply(self, name: str) -> Stop:
        """The next command of this name is carried out, and its reply waits."""
        return self._stop(name, Stop(after=True))

    def lose(self, name: str, times: int = 1) -> Stop:
        """The next commands of this name do not reach the server; the last one may still land later."""
        return [self._stop(name, Stop(lost=True)) for _ in range(times)][-1]

    async def call(self, name: str, apply: "Callable[[], Reply | asyncio.Future[Reply]]") -> Reply:
        """See ``Wire.call``."""
        await asyncio.sleep(TRIP_S)
        if self.cut:
            raise Disconnected("cut off")
        stop = self._stops[name].popleft() if self._stops[name] else None
        if stop is not None and not stop.after:
            await stop.enter(apply)
        result = apply()
        if stop is not None and stop.after:
            await stop.enter(apply)
        return await result if isinstance(result, asyncio.Future) else result

    def _stop(self, name: str, stop: Stop) -> Stop:
        self._stops[name].append(stop)
        return stop


class Member:
    """One process of the fleet."""

    def __init__(
        self,
        stage: "Stage",
        name: str,
        *,
        server: RedisServer,
        postgres: MemoryPostgres,
        namespace: str,
        fence_ttl_ms: int,
    ) -> None:
        self.server = server
        self.database = postgres
        self.redis, self.postgres = ScriptedWire(name), ScriptedWire(name)
        parts = stage.parts
        self.stats = stats = Stats()
        store = MemoryStore(lambda: self.server, self.redis, random.Random(name))
        self._source = MemorySource(postgres, self.postgres, namespace)
        history, clock = parts.history(), stage.loop.time
        history.told(postgres.epoch, clock())  # as ``WriteThrough.start`` learns it
        source = parts.source(self._source)
        self.cache = parts.cache(parts.store(store), source, source, stage.config, stats, history=history, clock=clock)
        self._audit = parts.audit(
            parts.audit_stores(lambda: open_audit_store(lambda: self.server, self.redis)),
            parts.audit_sources(lambda: open_audit_source(postgres, self.postgres, namespace)),
            replace(stage.config, fence_ttl_ms=fence_ttl_ms),
            stats,
            history=history,
            clock=clock,
            chance=random.Random(name),
        )

    def move(self, postgres: MemoryPostgres) -> None:
        """Let new questions go to another primary; answers that are on their way come all the same."""
        self.database = self._source._postgres = postgres

    async def audit_as_shipped(self) -> None:
        """Audit for ever, as a process does."""
        await self._audit.run()

    async def audit_on(self) -> None:
        """Audit for ever, whatever becomes of it."""
        while True:
            await self.audit()
            await asyncio.sleep(FENCE_S / 10)

    async def read_on(self) -> None:
        """Read for ever, and so fill the slot."""
        while True:
            await self.read_unrecorded()
            await asyncio.sleep(FENCE_S / 40)

    async def read_unrecorded(self) -> None:
        """Read where nothing is promised of the answer, which may be a refusal."""
        with suppress(SourceUnavailable):
            await self.cache.read("k")

    async def audit(self) -> Cycle | None:
        """Run one cycle, when the last claim has lapsed; ``None`` when it broke off."""
        try:
            while (cycle := await self._audit.cycle()) is None:
                await asyncio.sleep(TRIP_S)
        except (StoreUnavailable, SourceUnavailable):
            return None
        return cycle


class Stage:
    """Servers, members and the record of one schedule."""

    def __init__(self, loop: SeededLoop, parts: Parts) -> None:
        self.loop = loop
        self.parts = parts
        self.config = parts.config(CONFIG)
        self.red, self.blue = parts.redis("red", loop.time), parts.redis("blue", loop.time)
        self.postgres = parts.postgres(loop.time)
        self.postgres.know_history()
        self._members = 0
        self._contents = 0
        self._ticks = 0
        self._reads: list[Read] = []
        self.foreign: list[str] = []
        """Answers from another database's rows."""
        self._writes: list[Write] = []

    @property
    def violations(self) -> list[Violation | str]:
        """What the checker finds, and answers from another database."""
        return [*check(self._reads, self._writes).violations, *self.foreign]

    def member(
        self,
        server: RedisServer | None = None,
        *,
        postgres: MemoryPostgres | None = None,
        namespace: str = NAMESPACE,
        fence_ttl_ms: int | None = None,
    ) -> Member:
        """Start a process; its connections go to ``red`` and to the first primary if nothing else is said."""
        self._members += 1
        name, ttl_ms = f"member {self._members}", fence_ttl_ms or self.config.fence_ttl_ms
        return Member(
            self,
            name,
            server=server or self.red,
            postgres=postgres or self.postgres,
            namespace=namespace,
            fence_ttl_ms=ttl_ms,
        )

    async def trusted(self) -> tuple[Member, Member]:
        """Two members, a proven cache, and the row ``k`` in its slot."""
        first, second = self.member(), self.member()
        assert await first.audit()
        await self.write(first)
        await self.read(second)
        return first, second

    async def write(self, member: Member, *, content: str = "", mark: str = "") -> None:
        """Give ``k`` a content, unless a write of this mark did it before, and record when it was acknowledged."""
        called = self._tick()
        self._contents += 1
        content = content or f"content {self._contents}"
        mark = mark or f"mark {self._contents}"
        states: list[State] = []

        async def run() -> Committed:
            replayed, unchanged = member.database.applied(mark), False

            def change(row: Row | None) -> str | None:
                nonlocal unchanged
                unchanged = row is not None and (replayed or row.content == content)
                return row.content if row and replayed else content

            found = await transact(member.database, member.postgres, {"k": change}, mark)
            states.extend(found)
            if replayed:
                return Committed(self.parts.replayed(found))
            return Committed(self.parts.unchanged(found) if unchanged else found)

        _, acknowledgement = await member.cache.write(["k"], run)
        await member.cache.settle(acknowledgement)
        returned = self._tick()
        for state in states:
            order = member.database.order_of_epoch[hash_of(state.epoch)]
            key = f"k of {member.database.system}"
            self._writes.append(Write(key, called, returned, state.version, acknowledged=True, epoch_order=order))

    async def read(self, member: Member) -> Answer:
        """Read ``k`` and record it."""
        called = self._tick()
        answer = await read_as_served(member.cache, "k")
        if (order := member.database.order_of_epoch.get(hash_of(answer.state.epoch), -1)) < 0:
            self.foreign.append(f"{answer.state} is of another database")
        key, version = f"k of {member.database.system}", answer.state.version
        self._reads.append(Read(key, called, self._tick(), version, status=answer.status.value, epoch_order=order))
        return answer

    async def hits(self, member: Member) -> bool:
        """Whether a read is answered from the slot."""
        return (await self.read(member)).status is Status.HIT

    def spawn(self, coroutine: Any) -> "asyncio.Task[Any]":
        """Let something go on beside the script."""
        return self.loop.create_task(coroutine)

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks


async def trusted_again(member: Member) -> None:
    """Run cycles until one is trusted."""
    while (cycle := await member.audit()) is None or not cycle.trusted:
        await asyncio.sleep(0.05)


Schedule = Callable[[Stage], Awaitable[None]]


def play(schedule: Schedule, parts: Parts = SHIPPED) -> list[Violation | str]:
    """Play a schedule; return what the checker finds."""
    loop = SeededLoop(random.Random(1))
    try:
        stage = Stage(loop, parts)
        loop.run_until_complete(loop.create_task(_bounded(schedule, stage)))
        return stage.violations
    finally:
        loop.close()


async def _bounded(schedule: Schedule, stage: Stage) -> None:
    async with asyncio.timeout(60):
        await schedule(stage)
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)

"""The stage on the fakes, with virtual time and servers that do anything at a given moment.

Schedules that random runs would need very many seeds to find are run here step by step.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from typing_extensions import override

from app.cache.audit import Cycle
from app.cache.errors import SourceUnavailable, StoreUnavailable
from app.cache.history import hash_of
from app.cache.ports import State
from app.cache.stats import Stats
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.redis import RedisServer
from tests.fakes.rows import NAMESPACE, Row
from tests.fakes.source import open_audit_source, transact
from tests.fakes.store import open_audit_store
from tests.fakes.wire import Disconnected
from tests.harness.checker import Violation
from tests.harness.script import Script
from tests.limits import cache_config
from tests.schedules.stage import KEY, Member, Stage
from tests.simulation.loop import SeededLoop
from tests.simulation.parts import SHIPPED, Parts, no_shared_cycle

Reply = TypeVar("Reply")

FENCE_S = 2.0
CONFIG = cache_config(audit_interval_ms=2, fence_ttl_ms=2_000, fence_ttl_max_ms=2_000, settle_poll_ms=20)
TRIP_S = 0.001


class ScriptedWire(Script):
    """A connection to a server, on which a schedule stops commands by name."""

    def __init__(self, client: str) -> None:
        super().__init__(lambda: Disconnected("no reply"))
        self.client = client
        self.cut = False
        """Whether the connection is cut, so that no command arrives."""

    async def call(self, name: str, apply: "Callable[[], Reply | asyncio.Future[Reply]]") -> Reply:
        """Send one command and return its result or raise its error, like ``Wire``."""
        await asyncio.sleep(TRIP_S)
        if self.cut:
            raise Disconnected("cut off")
        return await self.run(name, apply)


class FakeMember(Member):
    """One process on the fakes."""

    redis: ScriptedWire
    postgres: ScriptedWire

    def __init__(
        self,
        stage: "FakeStage",
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
        self._parts = parts = stage.parts
        self.stats = stats = Stats()
        store = parts.store(lambda: self.server, self.redis, random.Random(name))
        self._source = source = parts.source(postgres, self.postgres, namespace)
        history, clock = parts.history(), stage.loop.time
        history.record(postgres.epoch, clock())  # as ``WriteThrough.start`` learns it
        self.cache = parts.cache(store, source, source, stage.config, stats, history=history, clock=clock)
        self._audit = parts.audit(
            lambda: open_audit_store(lambda: self.server, self.redis, parts.audit_store),
            lambda: open_audit_source(postgres, self.postgres, namespace, parts.audit_source),
            replace(stage.config, fence_ttl_ms=fence_ttl_ms),
            stats,
            history=history,
            clock=clock,
        )
        self._loop = parts.loop(
            {namespace: self._audit}, no_shared_cycle, stage.config, clock=clock, chance=random.Random(name)
        )

    def move(self, postgres: MemoryPostgres) -> None:
        """Send new queries to another primary. Answers that are on their way still arrive."""
        self.database = self._source._postgres = postgres

    async def audit_as_shipped(self) -> None:
        """Audit for ever, as a process does."""
        await self._loop.run()

    async def audit_on(self) -> None:
        """Audit for ever, even after failures."""
        while True:
            await self.audit()
            await asyncio.sleep(FENCE_S / 10)

    async def read_on(self) -> None:
        """Read for ever, and so fill the slot."""
        while True:
            await self.read_unrecorded()
            await asyncio.sleep(FENCE_S / 40)

    async def read_unrecorded(self) -> None:
        """Read without checking the answer, which may be a refusal."""
        with suppress(SourceUnavailable):
            await self.cache.read(KEY)

    @override
    async def transact(self, content: str, mark: str) -> tuple[Sequence[State], Sequence[State]]:
        replayed, unchanged = self.database.applied(mark), False

        def change(row: Row | None) -> str | None:
            nonlocal unchanged
            unchanged = row is not None and (replayed or row.content == content)
            return row.content if row and replayed else content or None

        found = await transact(self.database, self.postgres, {KEY: change}, mark)
        if replayed:
            return found, self._parts.replayed(found)
        return found, self._parts.unchanged(found) if unchanged else found

    @override
    def place_of(self, state: State) -> tuple[str, int]:
        order = self.database.order_of_epoch.get(hash_of(state.epoch), -1)
        return f"{state.key} of {self.database.system}", order

    @override
    async def audit(self) -> Cycle | None:
        try:
            while (cycle := await self._audit.cycle()) is None:
                await asyncio.sleep(TRIP_S)
        except (StoreUnavailable, SourceUnavailable):
            return None
        return cycle


class FakeStage(Stage[FakeMember]):
    """A stage on fakes, which can do at a given moment what a real server cannot."""

    def __init__(self, loop: SeededLoop, parts: Parts) -> None:
        super().__init__(FENCE_S)
        self.loop = loop
        self.parts = parts
        self.config = parts.config(CONFIG)
        self.red, self.blue = parts.redis("red", loop.time), parts.redis("blue", loop.time)
        self.postgres = parts.postgres(loop.time)
        self.postgres.know_history()
        self._members = 0

    @override
    async def member(
        self,
        server: RedisServer | None = None,
        *,
        postgres: MemoryPostgres | None = None,
        namespace: str = NAMESPACE,
        fence_ttl_ms: int | None = None,
    ) -> FakeMember:
        self._members += 1
        return FakeMember(
            self,
            f"member {self._members}",
            server=server or self.red,
            postgres=postgres or self.postgres,
            namespace=namespace,
            fence_ttl_ms=fence_ttl_ms or self.config.fence_ttl_ms,
        )

    @override
    async def evict(self) -> None:
        del self.red.data.slots[KEY]

    @override
    async def forget_watermark(self) -> None:
        self.red.data.watermark = None

    @override
    async def truncate(self) -> None:
        assert self.postgres.truncate()

    @override
    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        return self.loop.create_task(coroutine)


Schedule = Callable[[FakeStage], Awaitable[None]]


def play(schedule: Schedule, parts: Parts = SHIPPED) -> list[Violation | str]:
    """Run a schedule; return the checker's violations, and the answers that differ from those of the shipped code."""
    loop = SeededLoop(random.Random(1))
    try:
        stage = FakeStage(loop, parts)
        loop.run_until_complete(loop.create_task(_bounded(schedule, stage)))
        return [*stage.violations, *stage.unmet]
    finally:
        loop.close()


async def _bounded(schedule: Schedule, stage: FakeStage) -> None:
    async with asyncio.timeout(60):
        await schedule(stage)
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)

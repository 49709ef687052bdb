"""The stage of a schedule: processes whose calls the schedule can stop, and a record of reads and writes for the checker.

A schedule that takes a ``Stage`` runs on the fakes, in virtual time, and on real servers. One that takes a ``FakeStage`` needs
events that cannot be timed on a real server.
"""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, Generic, TypeVar

from app.cache.audit import Cycle
from app.cache.policies import WritePolicy
from app.cache.ports import State
from app.cache.write_through import Read as Answer
from app.cache.write_through import Status, WriteThrough
from tests.fakes.source import Committed
from tests.harness.checker import Read, Violation, Write, check
from tests.harness.script import Gate, Script
from tests.simulation.parts import read_as_served

KEY = "k"
"""The one key of every schedule."""


class Member(ABC):
    """One process. Each call that it sends to Redis or PostgreSQL follows the plan of the schedule."""

    cache: WriteThrough
    redis: Script
    postgres: Script

    @abstractmethod
    async def audit(self) -> Cycle | None:
        """Run one cycle after the last claim has expired; return ``None`` if it failed."""

    @abstractmethod
    async def transact(self, content: str, mark: str) -> tuple[Sequence[State], Sequence[State]]:
        """Commit a content (none deletes), unless this mark was committed before; return the states, and those to publish."""

    @abstractmethod
    def place_of(self, state: State) -> tuple[str, int]:
        """Return a state's key and database, and the order of its epoch there, which is below 0 for another database."""


M_co = TypeVar("M_co", bound=Member, covariant=True)


class Stage(ABC, Generic[M_co]):
    """Servers, members and the record of one schedule."""

    def __init__(self, fence_s: float) -> None:
        self.fence_s = fence_s
        """How long a fence lives."""
        self.unmet: list[str] = []
        """The answers that differ from those of the shipped code."""
        self._contents = 0
        self._ticks = 0
        self._foreign: list[str] = []
        self._reads: list[Read] = []
        self._writes: list[Write] = []

    @property
    def violations(self) -> list[Violation | str]:
        """Return the checker's violations, and answers from another database."""
        return [*check(self._reads, self._writes).violations, *self._foreign]

    @abstractmethod
    async def member(self, *, fence_ttl_ms: int | None = None) -> M_co:
        """Start a process. Its fences live for ``fence_s`` by default."""

    @abstractmethod
    async def evict(self) -> None:
        """Empty the slot, as Redis may at any moment."""

    @abstractmethod
    async def forget_watermark(self) -> None:
        """Delete the watermark, as if the server had come back without its data."""

    @abstractmethod
    async def truncate(self) -> None:
        """Begin another epoch with an empty table."""

    @abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run a coroutine in the background of the schedule."""

    async def trusted(self) -> tuple[M_co, M_co]:
        """Return two members with a trusted cache and the key in its slot."""
        first, second = await self.member(), await self.member()
        assert await first.audit()
        await self.write(first)
        await self.read(second)
        return first, second

    async def emptied(self) -> tuple[M_co, M_co]:
        """Return two members with a trusted cache and an empty slot."""
        first, second = await self.trusted()
        await first.cache.drop(KEY)
        return first, second

    async def write(
        self, member: Member, *, content: str | None = None, mark: str = "", policy: WritePolicy | None = None
    ) -> None:
        """Write a content, a new one if none is given, or delete (``""``), and record when that was acknowledged."""
        called = self._tick()
        self._contents += 1
        content = f"content {self._contents}" if content is None else content
        mark = mark or f"mark {self._contents}"
        states: list[State] = []

        async def run() -> Committed:
            found, published = await member.transact(content, mark)
            states.extend(found)
            return Committed(published)

        _, acknowledgement = await member.cache.write([KEY], run, policy=policy)
        await member.cache.settle(acknowledgement)
        returned = self._tick()
        for state in states:
            key, order = member.place_of(state)
            self._writes.append(Write(key, called, returned, state.version, acknowledged=True, epoch_order=order))

    async def lost_write(self, member: Member) -> None:
        """Write, and lose the publish."""
        member.redis.lose("publish")
        await self.write(member)

    async def unproven_write(self, member: Member) -> "asyncio.Task[None]":
        """Begin a write whose publish is lost; return when it has read the audit row to settle, or was acknowledged without."""
        member.redis.lose("publish")
        look = member.postgres.hold_reply("standing")
        writing = self.spawn(self.write(member))
        await asyncio.wait((writing, self.spawn(look.arrival())), return_when=asyncio.FIRST_COMPLETED)
        look.open()
        return writing

    @asynccontextmanager
    async def held(self, gate: Gate, work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
        """Start some work, run the block while its call waits at the gate, then let the work end."""
        task = self.spawn(work)
        await gate.arrival()
        yield
        gate.open()
        await task

    async def read(self, member: Member) -> Answer:
        """Read the key and record the answer."""
        called = self._tick()
        answer = await read_as_served(member.cache, KEY)
        key, order = member.place_of(answer.state)
        if order < 0:
            self._foreign.append(f"{answer.state} is of another database")
        version, status = answer.state.version, answer.status.value
        self._reads.append(Read(key, called, self._tick(), version, status=status, epoch_order=order))
        return answer

    async def finds(self, member: Member, version: int, status: Status) -> None:
        """Read, and record the answer if it differs from the one that the shipped code gives."""
        answer = await self.read(member)
        if (answer.state.version, answer.status) != (version, status):
            self.unmet.append(f"version {answer.state.version}, {answer.status} instead of version {version}, {status}")

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks


async def trusted_again(member: Member) -> None:
    """Run cycles until one is trusted."""
    while (cycle := await member.audit()) is None or not cycle.trusted:
        await asyncio.sleep(0.05)


def schedules_of(module: ModuleType) -> list[Any]:
    """Return the schedules that a module defines."""
    return [
        schedule
        for name, schedule in vars(module).items()
        if inspect.iscoroutinefunction(schedule) and schedule.__module__ == module.__name__ and not name.startswith("_")
    ]

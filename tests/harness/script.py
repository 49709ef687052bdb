"""A script by which a test decides in advance what happens to a call: it is held, opened, lost or carried out late.

``hold`` makes the next call of a name wait at a gate, and ``open`` lets it go on. ``lose`` fails the next call before its work
is done, and ``land`` does that work later. ``hold_reply`` and ``lose_reply`` act when the work is done. Fakes and gates in
front of real servers are scripted alike.
"""

import asyncio
import inspect
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Reply = TypeVar("Reply")

PATIENCE_S = 20.0
"""How long a test waits for an event that must happen. Only a failing test waits so long."""


class Gate:
    """A gate at which one call waits until the test opens it, or fails with ``error``; with ``after``, once it is done."""

    def __init__(self, *, after: bool = False, error: Exception | None = None) -> None:
        self.after = after
        self._error = error
        self._arrived = asyncio.Event()
        self._opened = asyncio.Event()
        self._work: Callable[[], Any] | None = None

    async def enter(self, work: Callable[[], Any] | None = None) -> None:
        """Wait at the gate. The call under test calls this."""
        self._work = work
        self._arrived.set()
        if self._error is not None:
            raise self._error
        await self._opened.wait()

    async def arrival(self) -> None:
        """Wait until the call has reached the gate."""
        async with asyncio.timeout(PATIENCE_S):
            await self._arrived.wait()

    def open(self) -> None:
        """Let the call go on."""
        self._opened.set()

    async def land(self) -> None:
        """Do the work of a call that was lost, whose sender does not wait any more."""
        assert self._work is not None
        await _done(self._work)


class Script:
    """The plan for the next calls of one client to one server, by the calls' names."""

    def __init__(self, lost: Callable[[], Exception]) -> None:
        self._lost = lost
        self._gates: dict[str, deque[Gate]] = defaultdict(deque)
        self._every_gate: list[Gate] = []

    def hold(self, name: str) -> Gate:
        """Make the next call wait before its work."""
        return self._plan(name, Gate())

    def hold_reply(self, name: str) -> Gate:
        """Make the next call do its work and hold its reply."""
        return self._plan(name, Gate(after=True))

    def lose(self, name: str, times: int = 1) -> Gate:
        """Make the next calls fail without their work. The last one can still be carried out later."""
        return [self.fail(name, self._lost()) for _ in range(times)][-1]

    def lose_reply(self, name: str, times: int = 1) -> Gate:
        """Make the next calls do their work and lose their replies."""
        return [self.fail(name, self._lost(), after=True) for _ in range(times)][-1]

    def fail(self, name: str, error: Exception, *, after: bool = False) -> Gate:
        """Make the next call raise an error, before its work or after it."""
        return self._plan(name, Gate(after=after, error=error))

    def let_go(self) -> None:
        """Open every gate, so that a test that failed with a held call ends and does not hang."""
        for gate in self._every_gate:
            gate.open()

    async def run(self, name: str, work: "Callable[[], Reply | Awaitable[Reply]]") -> Reply:
        """Do a call's work as planned."""
        gate = self._gates[name].popleft() if self._gates[name] else None
        if gate is not None and not gate.after:
            await gate.enter(work)
        reply = await _done(work)
        if gate is not None and gate.after:
            await gate.enter(work)
        return reply

    def _plan(self, name: str, gate: Gate) -> Gate:
        self._gates[name].append(gate)
        self._every_gate.append(gate)
        return gate


async def _done(work: "Callable[[], Reply | Awaitable[Reply]]") -> Reply:
    reply = work()
    if inspect.isawaitable(reply):
        return await reply
    return reply

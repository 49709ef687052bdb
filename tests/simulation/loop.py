"""An event loop without real time, input or output: the seed chooses who runs next, and time jumps to the next timer.

Callbacks carry the name of the simulated process that they belong to in their context. A process can be paused, as SIGSTOP
does: its callbacks wait, everything else goes on. A process paused for ever is a dead one: not even its ``finally``
clauses run.
"""

import asyncio
import heapq
import random
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, TypeVarTuple, Unpack

from typing_extensions import override

Ts = TypeVarTuple("Ts")

PROCESS: ContextVar[str] = ContextVar("PROCESS", default="")
"""The simulated process that runs; empty for the servers and the world."""


class Deadlock(Exception):
    """Nothing is ready and no timer is set, but somebody still waits: a wake-up was lost."""


class SeededLoop(asyncio.BaseEventLoop):
    """Runs one ready callback at a time, chosen by chance from all of them.

    Harsher than asyncio, which promises first come, first served: whatever holds here holds there.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._now = 0.0
        self._paused: dict[str, list[asyncio.Handle]] = {}
        self._runnable: list[Any] = []
        # Not the heap of BaseEventLoop, whose handles are compared by a method in Python.
        self._timers: list[tuple[float, int, Any]] = []
        self._timers_set = 0
        self.steps = 0
        self.unhandled: list[str] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    @override
    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, timer))
        return timer

    @override
    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def pause(self, process: str) -> None:
        """Let a process's callbacks wait from now on."""
        self._paused.setdefault(process, [])

    def resume(self, process: str) -> None:
        """Let a process go on."""
        self._runnable.extend(self._paused.pop(process, ()))

    def paused(self, process: str) -> bool:
        """Whether a process is paused or dead."""
        return process in self._paused

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]  # of BaseEventLoop; a deque of handles
        timers, runnable = self._timers, self._runnable
        if ready:
            runnable.extend(ready)
            ready.clear()
        if not runnable:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise Deadlock(f"nothing can ever happen again at {self._now:.3f} s")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            runnable.append(heapq.heappop(timers)[2])
        index = int(self._chance.random() * len(runnable))
        handle = runnable[index]
        last = runnable.pop()
        if index < len(runnable):
            runnable[index] = last
        if handle._cancelled:
            return
        if self._paused:
            process = handle._context.get(PROCESS, "")
            if process in self._paused:
                self._paused[process].append(handle)
                return
        self.steps += 1
        handle._run()

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        del loop
        error = context.get("exception")
        self.unhandled.append(f"{context.get('message')}: {error!r}")

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """Note a generator that was left half-way: when it is ended depends on the garbage collector, not on the seed."""
        self.unhandled.append(f"{agen.__qualname__} was left half-way")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave the heap when their time comes."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector."""

    def _process_events(self, event_list: object) -> None:
        """There are none."""

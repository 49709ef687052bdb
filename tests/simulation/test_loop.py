"""The event loop without time: who runs next, paused processes, lost wake-ups."""

import asyncio
import gc
import random
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import pytest

from tests.simulation.loop import PROCESS, Deadlock, SeededLoop


@contextmanager
def loop_of(seed: int) -> Iterator[SeededLoop]:
    """A loop, closed at the end."""
    loop = SeededLoop(random.Random(seed))
    try:
        yield loop
    finally:
        loop.close()


def order(seed: int) -> list[int]:
    """In which order ten tasks that are ready at once run."""
    ran: list[int] = []

    async def step(number: int) -> None:
        await asyncio.sleep(0)
        ran.append(number)

    async def everything() -> None:
        await asyncio.gather(*(step(number) for number in range(10)))

    with loop_of(seed) as loop:
        loop.run_until_complete(everything())
    return ran


def in_process(loop: SeededLoop, name: str, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run something as a process."""
    context = Context()
    context.run(PROCESS.set, name)
    return loop.create_task(coroutine, context=context)


def test_time_jumps() -> None:
    """An hour of waiting takes no time, and timers come in order."""
    woken: list[tuple[float, str]] = []

    async def wait(seconds: float, name: str) -> None:
        await asyncio.sleep(seconds)
        woken.append((asyncio.get_running_loop().time(), name))

    async def everything() -> None:
        await asyncio.gather(wait(3_600, "late"), wait(0.5, "early"))

    with loop_of(1) as loop:
        loop.run_until_complete(everything())
    assert woken == [(0.5, "early"), (3_600, "late")]


def test_seed_chooses_who_runs() -> None:
    """The same seed gives the same order, other seeds others."""
    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(20)}) > 10


def test_paused_process() -> None:
    """A paused process does nothing while time goes on for others, and then goes on where it was."""
    steps: list[float] = []

    async def tick() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            steps.append(asyncio.get_running_loop().time())

    async def everything() -> None:
        task = in_process(loop, "one", tick())
        await asyncio.sleep(1.5)
        loop.pause("one")
        await asyncio.sleep(10)
        assert loop.paused("one")
        loop.resume("one")
        await task

    with loop_of(1) as loop:
        loop.run_until_complete(everything())
    assert steps == [1, 11.5, 12.5]


def test_killed_process() -> None:
    """A process paused for ever ends nothing: not even its ``finally`` clauses run, while others live on."""
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            ended.append("one")

    async def everything() -> None:
        task = in_process(loop, "one", work())
        await asyncio.sleep(0.5)
        loop.pause("one")
        task.cancel()
        await asyncio.sleep(60)
        assert (ended, task.done()) == ([], False)
        loop.resume("one")
        await asyncio.wait([task])

    with loop_of(1) as loop:
        loop.run_until_complete(everything())
    assert ended == ["one"]


def test_lost_wake_up() -> None:
    """Somebody who waits for what can never happen is reported, not waited for."""

    async def wait() -> None:
        await asyncio.Event().wait()

    with loop_of(1) as loop:
        task = loop.create_task(wait())
        with pytest.raises(Deadlock):
            loop.run_until_complete(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)


def test_generator_left_half_way() -> None:
    """A generator that nobody ends is noted: the garbage collector would end it at a moment that no seed decides."""

    async def numbers() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    async def first() -> int:
        async for number in numbers():
            return number
        return 0

    with loop_of(1) as loop:
        assert loop.run_until_complete(first()) == 1
        gc.collect()
        assert [noted.rpartition(".")[2] for noted in loop.unhandled] == ["numbers was left half-way"]

"""Tests of what is logged as a stall of the machine, and of what it excuses."""

import asyncio
import time

from tests.harness.faultlog import FaultLog
from tests.harness.history import HAND_BOUNDS, Failure, History
from tests.harness.stalls import STALL_S, log_stalls


async def test_stall() -> None:
    """A time in which nothing ran is logged from its beginning to its end; a busy moment is not."""
    log = FaultLog()
    watching = asyncio.create_task(log_stalls(log))
    await asyncio.sleep(0)
    began = time.monotonic()
    time.sleep(STALL_S * 2)  # noqa: ASYNC251 - this is the stall
    ended = time.monotonic()
    async with asyncio.timeout(60):
        while not log.all:
            await asyncio.sleep(0)
    watching.cancel()
    [stall] = log.all
    assert stall.began <= began
    assert stall.ended is not None
    assert stall.ended >= ended


def test_failure_after_a_stall() -> None:
    """A request that failed soon after a stall is not held against a service; the same request without one is."""
    failure = Failure(10.0, 10.04, 0, "write put", "503 overloaded", ("a",))
    log = FaultLog()
    history = History(log, HAND_BOUNDS, epochs=(0,))
    history.failures.append(failure)
    assert len(history.judge().violations) == 1
    with log.on("machine-stalled", "machine") as stall:
        stall.began = 8.0
    stall.ended = 9.5
    assert history.judge().violations == []

"""An open loop: operations begin at their moments, however long earlier ones take.

Each operation is told the moment at which it was meant to begin and counts its latency from there, so that neither a slow
service nor a late client hides what a caller would have waited. The event loop's clock ticks in milliseconds: up to one of
them is the client's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

clock = time.monotonic
"""The one clock of a measurement, in seconds."""


@dataclass(frozen=True, slots=True)
class PacingResult:
    """How many operations were begun, in which time, and how late the latest began."""

    begun: int
    seconds: float
    late_s: float


async def at_rate(rate: float, seconds: float, operation: Callable[[float], Awaitable[None]]) -> PacingResult:
    """Begin ``rate`` operations a second, evenly, for ``seconds``; return when all are finished.

    Raises:
        ExceptionGroup: what operations raised; no further ones are begun then.
    """
    late_s = 0.0
    total = round(rate * seconds)
    async with asyncio.TaskGroup() as group:
        start = clock()
        for number in range(total):
            meant = start + number / rate
            while (ahead := meant - clock()) > 0:  # noqa: ASYNC110 - only time is waited for, and a timer may be early
                await asyncio.sleep(ahead)
            late_s = max(late_s, -ahead)
            group.create_task(_perform(operation, meant))
        seconds = clock() - start
    return PacingResult(total, seconds, late_s)


async def _perform(operation: Callable[[float], Awaitable[None]], meant: float) -> None:
    await operation(meant)

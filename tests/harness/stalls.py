"""Stalls of the machine: moments at which nothing ran, so that whatever came late meanwhile is nobody's fault."""

import asyncio
import time

from tests.harness.faultlog import FaultLog

STALL_S = 0.3
"""The shortest stall that is logged. A busy machine delays the clients by less."""
LAYER = "machine"
_PAUSE_S = 0.02


async def log_stalls(log: FaultLog) -> None:
    """Log every stall, until cancelled. It must run only while nothing else keeps the event loop busy for long."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(_PAUSE_S)
        if time.monotonic() - began > _PAUSE_S + STALL_S:
            with log.on("machine-stalled", LAYER) as stall:
                stall.began = began

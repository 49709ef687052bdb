"""The event loop for the commands in this package."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Found = TypeVar("Found")


def run(work: Coroutine[Any, Any, Found]) -> Found:
    """Run a coroutine to its end, on uvloop where that is installed, as services do."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - absent on systems that it is not made for
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)

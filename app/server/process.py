"""The event loop of a process."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def run_in_loop(coroutine: Coroutine[Any, Any, int]) -> int:
    """Run a program's coroutine to its end, on uvloop where that is installed, and return its exit status."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - absent on systems that it is not made for
    except ImportError:
        return asyncio.run(coroutine)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)

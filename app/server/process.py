"""The event loop of a process, and its garbage collection."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

GARBAGE_OBJECTS = 20_000
"""New containers after which garbage is collected. Python's default is 700, which is less than one batch of writes makes."""


def run_in_loop(coroutine: Coroutine[Any, Any, int]) -> int:
    """Run a program's coroutine to its end, on uvloop where that is installed, and return its exit status."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - absent on systems that it is not made for
    except ImportError:
        return asyncio.run(coroutine)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)


def collect_less_garbage() -> None:
    """Leave the present objects out of garbage collection, because they live as long as the process, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)

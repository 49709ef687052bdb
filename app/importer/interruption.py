"""Ctrl-C and SIGTERM, in good order: once to finish what is under way, twice to drop it."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from app.importer.retry import Stopping


class Interruption:
    """Turns the first signal into a request to stop, announced by `say_stopping`, and the second into a cancellation."""

    def __init__(self, stopping: Stopping, say_stopping: Callable[[], None]) -> None:
        self.came = False
        """Whether there was a signal."""
        self._stopping = stopping
        self._say_stopping = say_stopping

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """The signals are handled while this is open; the current task is the one that a second signal cancels."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()

        def interrupt() -> None:
            if self.came and task is not None:
                task.cancel()
                return
            self.came = True
            self._stopping.request()
            self._say_stopping()

        handled = (signal.SIGINT, signal.SIGTERM)
        try:
            for number in handled:
                loop.add_signal_handler(number, interrupt)
        except (NotImplementedError, RuntimeError):
            # No signal handlers in this loop or thread (Windows): Ctrl-C cancels the task, as asyncio does it.
            yield
            return
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

"""The handling of SIGINT, SIGTERM and SIGHUP in a process that serves. SIGHUP acts as SIGTERM does."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Protocol, Self

from app.settings import Settings

_GRACE_MARGIN_S = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stoppable(Protocol):
    """A server that can be stopped in an orderly way by a signal. ``uvicorn.Server`` is one."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. A second SIGINT drops the requests under way."""


def grace_s(settings: Settings) -> int:
    """Return how many seconds a stop waits for requests under way: longer than the deadline of a write."""
    return settings.request_timeout_ms // 1_000 + _GRACE_MARGIN_S


class StopSignals:
    """The handler of SIGINT, SIGTERM and SIGHUP, from the first server's start to the last one's end.

    While a command starts, a signal cancels it. While it serves, a signal lets the requests under way finish first. While it
    cleans up, which takes a bounded time, signals are ignored.
    """

    def __init__(self) -> None:
        self.requested = False
        self._task: asyncio.Task[object] | None = None
        self._server: Stoppable | None = None
        self._handled: list[signal.Signals] = []

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # nohup ignores SIGHUP for its command, which then outlives the terminal.
        self._handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in self._handled:
            loop.add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        loop = asyncio.get_running_loop()
        for number in self._handled:
            loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def cancelling(self) -> Iterator[None]:
        """Let a signal cancel the current task while nothing is served. The cancellation ends with this context."""
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self.requested:
                raise
        finally:
            self._task = None

    @contextlib.contextmanager
    def passed_to(self, server: Stoppable) -> Iterator[None]:
        """Pass signals on to ``server`` within this context."""
        self._server = server
        try:
            yield
        finally:
            self._server = None

    def stop(self) -> None:
        """Act as if SIGTERM had been received."""
        self._received(signal.SIGTERM)

    def _received(self, number: signal.Signals) -> None:
        first, self.requested = not self.requested, True
        if self._server is not None:
            self._server.handle_exit(number, None)
        elif first and self._task is not None:
            self._task.cancel()

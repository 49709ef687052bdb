"""How signals stop an import: after one signal the batches under way are finished; after two they are dropped."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator


class StopFlag(asyncio.Event):
    """Set when the import is to stop. From then on no request is begun or repeated; one under way may end."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupted = False
        """Whether a signal set the flag."""

    async def wait_ms(self, duration_ms: float) -> bool:
        """Wait ``duration_ms`` or until the flag is set; return True if the full time passed."""
        try:
            async with asyncio.timeout(duration_ms / 1000):
                await self.wait()
        except TimeoutError:
            return True
        return False

    @contextlib.contextmanager
    def set_by_signals(self, announce: Callable[[], None]) -> Iterator[None]:
        """Within this context the first Ctrl-C, SIGTERM or SIGHUP sets the flag and calls ``announce``.

        The second cancels the task. That cancellation does not go beyond the context.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def interrupt() -> None:
            if self.interrupted and task is not None:
                task.cancel()
                return
            self.interrupted = True
            self.set()
            announce()

        # nohup ignores SIGHUP for its command, and Windows does not know it.
        hangup = getattr(signal, "SIGHUP", signal.SIGTERM)
        numbers = {signal.SIGINT, signal.SIGTERM, *([] if signal.getsignal(hangup) is signal.SIG_IGN else [hangup])}
        # Where a loop or thread has no signal handlers (Windows), asyncio cancels the task at Ctrl-C.
        with contextlib.suppress(NotImplementedError, RuntimeError):
            for number in numbers:
                loop.add_signal_handler(number, interrupt)
        try:
            yield
        except asyncio.CancelledError:
            if not self.interrupted:
                raise
        finally:
            with contextlib.suppress(NotImplementedError):
                for number in numbers:
                    loop.remove_signal_handler(number)

"""The supervisor of several processes on one address. It starts them, replaces those that die, and stops them together.

The parent accepts connections and hands each to the next worker, without reading from them (``handover``). A worker is a
fresh interpreter, so that no state of a running event loop is copied into a second process.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

from app.server.address import listen, local_url
from app.server.errors import CannotServe
from app.server.handover import SERVING, ConnectionSender, report_of
from app.server.signals import StopSignals, grace_s
from app.settings import PREFIX, Settings

_STEADY_S = 10.0
"""A worker that served for at least this long is replaced without a pause."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_CLOSING_S = 10
"""Time for a worker to close its connections to PostgreSQL and Redis after its last response."""
_MEMORY = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
_log = logging.getLogger("larder")

Ready = Callable[[str], Awaitable[None]]
"""A function that is called once, with the service's URL, when requests are taken."""


async def serve_by(settings: Settings, listener: socket.socket, stop: StopSignals, ready: Ready) -> None:
    """Serve on ``listener`` with the number of processes in the settings. If that is one, it is this process.

    Raises:
        CannotServe: the address or the workers failed; the message says why.
        Exception: what ``ready`` or, in this process, the application's own start raised.
    """
    if settings.workers == 1:
        # Imported here, because a parent of workers needs neither the service nor its HTTP server.
        from app.main import create_app  # noqa: PLC0415
        from app.server.http_server import Server, run_server  # noqa: PLC0415

        url = local_url(listener, settings)
        await run_server(Server(create_app(settings), settings), [listener], stop, lambda: ready(url))
        return
    # The directory is in memory where possible, so that a worker that writes its metrics does not wait for a disk.
    where = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="larder-", dir=where, ignore_cleanup_errors=True) as directory:
        supervisor = _Supervisor(settings, listener, Path(directory))
        with stop.passed_to(supervisor):
            await supervisor.run(ready)


class _Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, directory: Path) -> None:
        self._settings = settings
        self._listener = listener
        self._directory = directory
        self._stop_timeout_s = grace_s(settings) + _CLOSING_S
        self._living: dict[int, Process] = {}
        self._sender = ConnectionSender(listener)
        self._all_serve = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(self, ready: Ready) -> None:
        """Keep all workers running until a signal."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = [group.create_task(self._keep(number + 1)) for number in range(self._settings.workers)]
                announcing = group.create_task(self._announce(ready, local_url(self._listener, self._settings)))
                await asyncio.wait(keeping)
                announcing.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as uvicorn's server has it
        """Pass a signal on to every worker. Those that miss their deadline are killed."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._sender.close()
            asyncio.get_running_loop().call_later(self._stop_timeout_s, self._kill)
        for number, process in self._living.items():
            # A worker that does not serve yet may not have its handler of SIGINT, and would end with a traceback.
            _send(process, sig if number in self._sender else signal.SIGTERM)

    async def _announce(self, ready: Ready, url: str) -> None:
        await self._all_serve.wait()
        listen(self._listener, self._settings)
        self._sender.start()
        await ready(url)

    async def _keep(self, number: int) -> None:
        """Run one worker, and start another one in its place when it ends, until the supervisor stops.

        Raises:
            CannotServe: it ended before it served, during the first start or while no other worker serves.
        """
        pause_s = 0.0
        while not self._stopping.is_set():
            process, channel = await self._start(number)
            try:
                served_s, reason = await self._lifetime(number, process, channel)
            finally:
                await self._stop(number, process, channel)
            if self._stopping.is_set():
                return
            what = f"worker {number} (process {process.pid}) ended with status {process.returncode}"
            if served_s is None and not (self._all_serve.is_set() and self._sender):
                raise CannotServe(reason or f"{what} before it served")
            if served_s is not None and served_s >= _STEADY_S:
                pause_s = 0.0
            when = f"in {pause_s:g} s" if pause_s else "now"
            _log.warning("%s; another takes its place %s%s", what, when, f": {reason}" if reason else "")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(max(_FIRST_PAUSE_S, 2 * pause_s), _LONGEST_PAUSE_S)

    async def _start(self, number: int) -> tuple[Process, socket.socket]:
        """Start a worker, and return its process and the parent's end of the channel to it."""
        channel, workers_end = socket.socketpair()
        channel.settimeout(0)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        try:
            process = await asyncio.create_subprocess_exec(
                # -P: modules in the working directory are not imported.
                *(sys.executable, "-P", "-m", "larder_entry"),
                *(str(number), str(workers_end.fileno()), str(self._directory)),
                env=inherited | self._settings.as_env(),
                stdin=DEVNULL,
                pass_fds=(workers_end.fileno(),),
                # Ctrl-C in a terminal then reaches the parent only, which passes it on.
                start_new_session=True,
            )
        except BaseException:
            channel.close()
            raise
        finally:
            workers_end.close()
        self._living[number] = process
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)
        return process, channel

    async def _lifetime(self, number: int, process: Process, channel: socket.socket) -> tuple[float | None, str]:
        """Wait until a worker ends. Return the seconds for which it served, or ``None`` and the reason that it reported."""
        if (report := await report_of(channel)) != SERVING:
            await process.wait()
            return None, report.decode()
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._sender.add(number, channel)
        if len(self._sender) == self._settings.workers:
            self._all_serve.set()
        await process.wait()
        return loop.time() - began, ""

    async def _stop(self, number: int, process: Process, channel: socket.socket) -> None:
        self._sender.remove(number)
        channel.close()
        if process.returncode is None:
            _send(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._stop_timeout_s)
        except TimeoutError:
            _send(process, signal.SIGKILL)
            await process.wait()
        del self._living[number]

    def _kill(self) -> None:
        for process in self._living.values():
            _send(process, signal.SIGKILL)


def _send(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)

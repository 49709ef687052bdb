"""Several processes on one address: started together, replaced when they die, ended together.

The parent accepts connections and hands each to the next worker in turn; it reads nothing from them. A worker is a fresh
interpreter, so no state of a running event loop is ever copied into a second process. A line (a socket pair) leads to it: the
connections go through it, and when it ends, each side knows that the other one is dead, whatever it died of.
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
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from app.cli.errors import CommandFailed
from app.cli.serving import Ready, StopSignals, grace_s, listen, local_url, serve
from app.cli.turns import Turns
from app.settings import PREFIX, Settings

_STEADY_S = 10.0
"""Who served so long has not died at once."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_CLOSING_S = 10
"""For a worker's connections to PostgreSQL and Redis, after its last answer."""
_MEMORY = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
SERVING = b"serving\n"
"""What a worker says on its line when it takes requests; anything else is why it cannot."""
_log = logging.getLogger("larder")


def workers_wished(given: str | None) -> Mapping[str, str]:
    """The setting that an option `--workers` stands for, to be checked like every other."""
    return {} if given is None else {f"{PREFIX}WORKERS": given}


async def serve_by(settings: Settings, listener: socket.socket, stop: StopSignals, ready: Ready) -> None:
    """Serve on `listener` by as many processes as the settings say: by this one, if it is one.

    Raises:
        CommandFailed: the workers cannot start; the message says why.
        Exception: what `ready` raised, or, served by this process, the application's own start.
    """
    if settings.workers == 1:
        from app.main import create_app  # noqa: PLC0415 - a parent of workers needs nothing of the service

        await serve(create_app(settings), settings, listener, stop, ready)
        return
    # In memory, where it can be: a worker that renews a file must not wait for a disk.
    where = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="larder-", dir=where, ignore_cleanup_errors=True) as directory:
        workers = _Workers(settings, listener, Path(directory))
        with stop.passed_to(workers):
            await workers.run(ready)


class _Workers:
    def __init__(self, settings: Settings, listener: socket.socket, directory: Path) -> None:
        self._settings = settings
        self._listener = listener
        self._directory = directory
        self._patience_s = grace_s(settings) + _CLOSING_S
        self._living: dict[int, Process] = {}
        self._turns = Turns(listener)
        self._all_serve = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(self, ready: Ready) -> None:
        """Keep all of them until a signal."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = [group.create_task(self._keep(number + 1)) for number in range(self._settings.workers)]
                announcing = group.create_task(self._announce(ready, local_url(self._listener)))
                await asyncio.wait(keeping)
                announcing.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as uvicorn's server has it
        """Pass a signal on to every worker; those that are not done within their deadline are killed."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._turns.close()
            asyncio.get_running_loop().call_later(self._patience_s, self._kill)
        for number, process in self._living.items():
            # Who does not serve yet may not know a SIGINT from a fault.
            _send(process, sig if number in self._turns else signal.SIGTERM)

    async def _announce(self, ready: Ready, url: str) -> None:
        await self._all_serve.wait()
        listen(self._listener, self._settings)
        self._turns.begin()
        await ready(url)

    async def _keep(self, number: int) -> None:
        """Run one worker, and another one in its place when it ends, until told to stop.

        Raises:
            CommandFailed: it ended before it served, and either the first start is not over or nobody serves any more.
        """
        pause_s = 0.0
        while not self._stopping.is_set():
            process, line = await self._start(number)
            try:
                served_s, said = await self._lifetime(number, process, line)
            finally:
                await self._see_off(number, process, line)
            if self._stopping.is_set():
                return
            what = f"worker {number} (process {process.pid}) ended with status {process.returncode}"
            if served_s is None and not (self._all_serve.is_set() and self._turns):
                raise CommandFailed(said or f"{what} before it served")
            if served_s is not None and served_s >= _STEADY_S:
                pause_s = 0.0
            when = f"in {pause_s:g} s" if pause_s else "now"
            _log.warning("%s; another takes its place %s%s", what, when, f": {said}" if said else "")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(max(_FIRST_PAUSE_S, 2 * pause_s), _LONGEST_PAUSE_S)

    async def _start(self, number: int) -> tuple[Process, socket.socket]:
        """Start a worker; its process, and our end of the line to it."""
        line, theirs = socket.socketpair()
        line.settimeout(0)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        given = {
            "--number": number,
            "--line": theirs.fileno(),
            "--directory": self._directory,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                # -P: what lies in the working directory is no part of the service.
                *(sys.executable, "-P", "-m", "app.cli", "worker"),
                *(str(word) for option in given.items() for word in option),
                env=inherited | self._settings.as_env(),
                stdin=DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C in the terminal is for the parent alone, which passes it on.
                start_new_session=True,
            )
        except BaseException:
            line.close()
            raise
        finally:
            theirs.close()
        self._living[number] = process
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)
        return process, line

    async def _lifetime(self, number: int, process: Process, line: socket.socket) -> tuple[float | None, str]:
        """Wait until a worker ends: for how many seconds it served, or none and why, if it said so."""
        loop = asyncio.get_running_loop()
        said = b""
        while said != SERVING and (part := await loop.sock_recv(line, 4_096)):
            said += part
        if said != SERVING:
            await process.wait()
            return None, said.decode()
        began = loop.time()
        self._turns.add(number, line)
        if len(self._turns) == self._settings.workers:
            self._all_serve.set()
        await process.wait()
        return loop.time() - began, ""

    async def _see_off(self, number: int, process: Process, line: socket.socket) -> None:
        self._turns.remove(number)
        line.close()
        if process.returncode is None:
            _send(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._patience_s)
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

"""The process of a private server: its start, its signals, and how a later run recognises it after its owner has died."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.private_servers.errors import HOW_TO_GET_THEM, ExtraMissing, ServerFailed

try:
    import psutil
except ModuleNotFoundError as error:
    raise ExtraMissing(f"Private servers need packages that are not installed. {HOW_TO_GET_THEM}") from error

_POLL_S = 0.01
_KILL_S = 10.0
_LOG_TAIL_BYTES = 2_000


class ServerProcess:
    """A server that this process started.

    It has a session of its own, so that Ctrl-C in a terminal reaches only Larder, which stops its servers after the last
    request. Its output goes to a file, because a pipe would have no reader after Larder was killed.

    Args:
        command: program and arguments. One of them names the server's own directory, by which ``orphan`` recognises it.
        log: file for the server's output, overwritten.
        user: account to run as, or ``None`` for the present one.
        environment: the server's whole environment.

    Raises:
        ServerFailed: the program or the log cannot be opened.
    """

    def __init__(self, command: Sequence[str], *, log: Path, user: str | None, environment: Mapping[str, str]) -> None:
        self.log = log
        self._name = Path(command[0]).name
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd="/",
                    env=dict(environment),
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                )
        except OSError as error:
            raise ServerFailed(f"{command[0]} cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """The process id. Available even after the process has ended."""
        return self._process.pid

    def ended(self) -> bool:
        """Return whether the process has ended. If so, it is reaped."""
        return self._process.poll() is not None

    async def until_ready(self, ready: Callable[[], bool], *, deadline_s: float) -> None:
        """Wait until ``ready`` returns true. If that fails or is cancelled, the server is killed.

        Raises:
            ServerFailed: the server ended first, or the deadline passed; the last lines of its log are in the message.
        """
        try:
            in_time = await _within(deadline_s, lambda: self.ended() or ready())
        except BaseException:
            await self.kill()
            raise
        if in_time and not self.ended():
            return
        fault = "ended while starting" if self.ended() else f"was not ready after {deadline_s:g} s"
        await self.kill()
        raise ServerFailed(f"{self._name} {fault}: {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines that the server wrote."""
        with contextlib.suppress(OSError):
            return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return "(no log)"

    def pause(self) -> None:
        """Make the server and its children hang (SIGSTOP). Their connections stay open."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause`` (SIGCONT)."""
        self._signal_family(signal.SIGCONT)

    async def kill(self) -> None:
        """End the server and its children at once (SIGKILL), as a crash of its machine would."""
        self._signal_family(signal.SIGKILL)
        await _within(_KILL_S, self.ended)

    async def stop(self, *signals: signal.Signals, patience_s: float) -> None:
        """Send the signals and at last SIGKILL, with ``patience_s`` between them, until the server has ended."""
        self.resume()
        for number in signals:
            if self.ended():
                return
            self._process.send_signal(number)
            if await _within(patience_s, self.ended):
                return
        await self.kill()

    def _signal_family(self, number: signal.Signals) -> None:
        # The parent comes first, because a running PostgreSQL would react to the death of one of its children.
        if self.ended():
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            children = parent.children(recursive=True)
            parent.send_signal(number)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(number)


class PrivateServer:
    """The common base of the private servers after their start."""

    def __init__(self) -> None:
        self._process: ServerProcess | None = None

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._started_process().pid

    async def kill(self) -> None:
        """End the server at once, as a crash would (SIGKILL to it and its children)."""
        await self._started_process().kill()

    def pause(self) -> None:
        """Make the server hang (SIGSTOP to it and its children). Its connections stay open."""
        self._started_process().pause()

    def resume(self) -> None:
        """End a ``pause``. Requests that were sent meanwhile are carried out now."""
        self._started_process().resume()

    async def _end(self, *signals: signal.Signals, patience_s: float) -> None:
        if self._process is not None:
            await self._process.stop(*signals, patience_s=patience_s)

    def _started_process(self) -> ServerProcess:
        if self._process is None:
            raise ServerFailed("The private server was not started.")
        return self._process


def orphan(pid_file: Path, directory: Path) -> psutil.Process | None:
    """Return the server whose pid is in ``pid_file``, if it still runs and was started on ``directory``.

    The system may have given the pid to another program meanwhile, but only a server of Larder has this directory among its
    arguments. The caller holds the lock on the directory (``ServerDirectory``).
    """
    try:
        process = psutil.Process(int(pid_file.read_text().split()[0]))
        arguments = process.cmdline()
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    ours = str(directory)
    return process if any(argument == ours or argument.startswith(ours + os.sep) for argument in arguments) else None


def is_zombie(pid: str) -> bool:
    """Return whether a process has ended and only its entry in the process table is left."""
    try:
        return bool(psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    except (ValueError, psutil.Error):
        return False


async def end_orphan(process: psutil.Process, *signals: signal.Signals, patience_s: float) -> None:
    """End a server whose owner is dead, by ``signals`` and at last by SIGKILL.

    Raises:
        ServerFailed: it survived SIGKILL, or belongs to another account.
    """
    try:
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.send_signal(signal.SIGCONT)
        for number in (*signals, signal.SIGKILL):
            process.send_signal(number)
            if await _has_ended(process, patience_s):
                break
        else:
            raise ServerFailed(f"The server of an earlier run (process {process.pid}) does not end: stop it by hand.")
        for member in family:
            if not await _has_ended(member, patience_s):
                member.kill()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise ServerFailed(
            f"The server of an earlier run (process {process.pid}) belongs to another account: stop it by hand."
        ) from error


async def _has_ended(process: psutil.Process, patience_s: float) -> bool:
    return await _within(patience_s, lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


async def _within(deadline_s: float, condition: Callable[[], bool]) -> bool:
    """Wait until the condition holds; return whether it did before the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_POLL_S)
    return True

"""Passwords that a file or a command tells, read anew for every connection, because they may expire at any time.

A password is never kept: it would outlive the session for which it was made. Connections that are opened at the same time share
one reading. What the command prints is never logged and is in no error.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

DEADLINE_S = 5.0
"""The longest time that a file or a command may take."""
LINE_BYTES = 65_536
"""The longest password. What a command prints beyond it is dropped."""


class PasswordUnavailable(Exception):
    """A password could not be read."""


class Password:
    """A password that stands in the first line of a file or of a command's output.

    Args:
        file: the file.
        command: the program and its arguments, which no shell sees. It is used if there is no file.
        deadline_s: the longest time that reading may take.
    """

    def __init__(self, *, file: Path | None = None, command: Sequence[str] = (), deadline_s: float = DEADLINE_S) -> None:
        self._file = file
        self._command = command
        self._deadline_s = deadline_s
        self._reading: asyncio.Task[str] | None = None

    async def read(self) -> str:
        """Return the present password. A call that comes while another one waits gets the same answer.

        Raises:
            PasswordUnavailable: there is none; the text says why, and has nothing of what was read.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._end)
        return await asyncio.shield(self._reading)

    def _end(self, reading: "asyncio.Task[str]") -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # marks it as retrieved, in case nobody waits any more

    async def _read(self) -> str:
        try:
            async with asyncio.timeout(self._deadline_s):
                line = await (_output(self._command) if self._file is None else asyncio.to_thread(_first_bytes, self._file))
        except TimeoutError as error:
            raise PasswordUnavailable(f"{self._name} gave no password within {self._deadline_s:g} s") from error
        except OSError as error:
            raise PasswordUnavailable(f"{self._name} cannot be used ({error.strerror})") from error
        try:
            password = line.partition(b"\n")[0].rstrip(b"\r").decode()
        except UnicodeDecodeError:
            raise PasswordUnavailable(f"{self._name} gave a password that is not UTF-8") from None
        if not password:
            raise PasswordUnavailable(f"{self._name} gave no password: its first line is empty")
        return password

    @property
    def _name(self) -> str:
        # The arguments are not named, because they may be secret.
        return f"the command {self._command[0]}" if self._file is None else f"the file {self._file}"


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(LINE_BYTES)


async def _output(command: Sequence[str]) -> bytes:
    """Run a command and return the beginning of its output. Whatever it has started ends with it."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, start_new_session=True)
    try:
        output = await _read_to_end(process)
        status = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if status != 0:
        raise PasswordUnavailable(f"the command {command[0]} ended with status {status}")
    return output


async def _read_to_end(process: Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    output = b""
    while chunk := await process.stdout.read(LINE_BYTES):
        output = (output + chunk)[:LINE_BYTES]
    return output

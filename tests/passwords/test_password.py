"""Passwords of files and commands: read anew, by one at a time, within a deadline, and never told to anybody else."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from app.passwords import Password, PasswordUnavailable
from tests.harness.script import PATIENCE_S


async def test_file_is_read_anew(tmp_path: Path) -> None:
    """The first line counts, without its end; a change counts at once."""
    file = tmp_path / "password"
    file.write_bytes("ö 1 \r\nsecond line".encode())
    password = Password(file=file)
    assert await password.read() == "ö 1 "
    file.write_text("two")
    assert await password.read() == "two"


async def test_command_runs_once_for_all_who_wait(tmp_path: Path) -> None:
    """Calls that come together share one run; the next call runs it again. No shell reads the arguments."""
    runs = tmp_path / "runs"
    script = 'echo >>"$1"; sleep 0.2; printf "%s\\nmore" "$2"'
    password = Password(command=["/bin/sh", "-c", script, "sh", str(runs), "$(id) 'x'"])
    assert set(await asyncio.gather(*(password.read() for _ in range(5)))) == {"$(id) 'x'"}
    assert await password.read() == "$(id) 'x'"
    assert runs.read_text() == "\n\n"


async def test_caller_who_gives_up_leaves_the_reading_to_the_others() -> None:
    """The run belongs to all who wait, not to the first one."""
    password = Password(command=["/bin/sh", "-c", "sleep 0.2; echo word"])
    first, second = (asyncio.create_task(password.read()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "word"


async def test_hanging_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """At the deadline the error says so, and no process is left."""
    pid_file = tmp_path / "pid"
    command = ["/bin/sh", "-c", 'sleep 60 & echo $! >"$1"; wait', "sh", str(pid_file)]
    began = time.monotonic()
    with pytest.raises(PasswordUnavailable, match=r"the command /bin/sh gave no password within 1 s"):
        await Password(command=command, deadline_s=1.0).read()
    assert time.monotonic() - began < PATIENCE_S
    child = int(pid_file.read_text())
    async with asyncio.timeout(PATIENCE_S):
        while _runs(child):
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["/nowhere/token"], "cannot be used (No such file or directory)"),
        (["/bin/sh", "-c", "echo s3cret; echo s3cret >&2; exit 3"], "ended with status 3"),
        (["/bin/sh", "-c", "echo; echo s3cret"], "its first line is empty"),
        (["/bin/sh", "-c", "printf 's3cret\\377'"], "is not UTF-8"),
    ],
)
async def test_failure_tells_no_secret(command: list[str], says: str) -> None:
    """The error names the program and the reason, and neither its arguments nor its output."""
    with pytest.raises(PasswordUnavailable) as raised:
        await Password(command=command).read()
    error: BaseException | None = raised.value
    assert says in str(error)
    assert "s3cret" not in str(error)


async def test_long_output_is_dropped() -> None:
    """A program that prints more than a password is not held up, and costs no memory."""
    password = Password(command=["/bin/sh", "-c", "echo word; head -c 3000000 /dev/zero"])
    assert await password.read() == "word"


async def test_missing_file_is_said(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(PasswordUnavailable, match=r"the file .*gone cannot be used \(No such file or directory\)"):
        await Password(file=tmp_path / "gone").read()

"""`larder` as a process: started, read, ended."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

_LARDER = str(Path(sys.executable).with_name("larder"))
START_S = 60.0


class Running:
    """A `larder` that was started and has said that it serves."""

    def __init__(self, process: asyncio.subprocess.Process, said: str) -> None:
        self.process = process
        self.said = said
        self.url = re.findall(r"serves on (\S+)", said)[0]

    async def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), START_S)


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LARDER_")}
    return {**inherited, "LARDER_PORT": "0", **settings}


async def start(*arguments: str, directory: Path, settings: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """Start `larder`, on a free port unless the settings name one."""
    return await asyncio.create_subprocess_exec(
        _LARDER,
        *arguments,
        cwd=directory,
        env=_environment(settings or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def running(*arguments: str, directory: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Run a `larder` that serves; it is stopped afterwards."""
    process = await start(*arguments, directory=directory, settings=settings)
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(START_S):
            while "serves on" not in said or (arguments[0] == "dev" and "Private server" not in said):
                line = await process.stdout.readline()
                assert line, f"it ended: {said}"
                said += line.decode()
        yield Running(process, said)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


async def ended(*arguments: str, directory: Path, settings: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `larder` to its end; status and output."""
    process = await start(*arguments, directory=directory, settings=settings)
    said, _ = await asyncio.wait_for(process.communicate(), START_S)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def failing(*arguments: str, directory: Path, settings: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `larder` to its end, which is no traceback; status and output."""
    status, said = await ended(*arguments, directory=directory, settings=settings)
    assert "Traceback" not in said
    return status, said

"""The ``larder`` command as a process."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = str(Path(sys.executable).with_name("larder"))
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class ServingLarder:
    """A process that has said that it serves."""

    process: asyncio.subprocess.Process
    said: str
    url: str

    async def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), LIMIT_S)


class Larder:
    """The command in a working directory of its own, on a free port and without settings unless a call names some."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def start(self, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
        """Start it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LARDER_")}
        return await asyncio.create_subprocess_exec(
            _PROGRAM,
            *arguments,
            cwd=self.directory,
            env={**inherited, "LARDER_ACCESS": "open", "LARDER_PORT": "0", **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    @asynccontextmanager
    async def serving(self, *arguments: str, **settings: str) -> AsyncIterator[ServingLarder]:
        """Start it and wait until it serves; it is stopped afterwards."""
        process = await self.start(*arguments, **settings)
        assert process.stdout is not None
        said = ""
        try:
            async with asyncio.timeout(LIMIT_S):
                while "serves on" not in said or (arguments[0] == "dev" and "Private server" not in said):
                    line = await process.stdout.readline()
                    assert line, f"it ended: {said}"
                    said += line.decode()
            yield ServingLarder(process, said, re.findall(r"serves on (\S+)", said)[0])
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.communicate()

    async def run(self, *arguments: str, **settings: str) -> tuple[int | None, str]:
        """Run it to its end; status and output."""
        process = await self.start(*arguments, **settings)
        said, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
        return process.returncode, said.decode()

    async def failure(self, *arguments: str, **settings: str) -> str:
        """Run it to its end, which is status 1 and one line without a traceback; what follows its name in that line."""
        status, said = await self.run(*arguments, **settings)
        assert status == 1
        assert re.fullmatch(rf"larder {arguments[0]}: .*\n", said)
        return said.strip().partition(": ")[2]

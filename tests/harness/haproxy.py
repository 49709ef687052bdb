"""An HAProxy with a configuration of the test's own."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

HOST = "127.0.0.1"
_READY_S = 10.0
_POLL_S = 0.02


def haproxy_program() -> str | None:
    """Return where HAProxy is, if it is installed."""
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


@asynccontextmanager
async def start_haproxy(directory: Path, configuration: str, port: int) -> AsyncIterator[None]:
    """Run HAProxy with its file in ``directory``, and go on when it listens on ``port``; stop it at the end."""
    program = haproxy_program()
    assert program is not None, "HAProxy is not installed (on Debian: apt-get install --no-install-recommends haproxy)"
    file, log = directory / "haproxy.cfg", directory / "haproxy.log"
    file.write_text(configuration)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(program, "-db", "-f", str(file), stdout=output, stderr=output)
    try:
        async with asyncio.timeout(_READY_S):
            while not _listens(port):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(_POLL_S)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0

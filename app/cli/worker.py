"""`larder worker`: one of the processes of `larder serve --workers N`, which alone starts it.

It says on its line to the parent that it serves, or why it cannot. The line ends with the parent, however that ends, and
then the worker ends too, in order.
"""

import argparse
import asyncio
import contextlib
import shutil
import socket
from pathlib import Path

from app.api.tallies import Tallies
from app.cli.environment import read_settings
from app.cli.errors import CommandFailed
from app.cli.serving import StopSignals, log_to_stderr, serve
from app.cli.workers import SERVING
from app.main import create_app

_CANNOT_START = 1


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command; without a help text it is not listed."""
    parser = subparsers.add_parser("worker")
    parser.add_argument("--number", type=int, required=True, help="which of the workers this is, from 1")
    parser.add_argument("--listener", type=int, required=True, help="file descriptor of the socket to serve on")
    parser.add_argument("--line", type=int, required=True, help="file descriptor of the socket to the parent")
    parser.add_argument("--directory", type=Path, required=True, help="where the workers keep their tallies")


async def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal or the end of the parent."""
    log_to_stderr()
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=arguments.line) as line, StopSignals() as stop, stop.cancelling():
        line.settimeout(0)
        watching = asyncio.create_task(_outlive_nobody(line, stop, arguments.directory))

        async def ready(_url: str) -> None:
            with contextlib.suppress(OSError):  # the parent is gone: `watching` knows
                await loop.sock_sendall(line, SERVING)

        try:
            settings = read_settings()
            app = create_app(settings, Tallies(arguments.directory, arguments.number))
            with socket.socket(fileno=arguments.listener) as listener:
                await serve(app, settings, listener, stop, ready)
        except CommandFailed as error:
            await loop.sock_sendall(line, str(error).encode())
            return _CANNOT_START
        finally:
            watching.cancel()
            await asyncio.wait([watching])
    return 0


async def _outlive_nobody(line: socket.socket, stop: StopSignals, directory: Path) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while await loop.sock_recv(line, 1):
            pass
    # Nobody is left to remove it, and nobody to be asked for the sum.
    shutil.rmtree(directory, ignore_errors=True)
    stop.end()

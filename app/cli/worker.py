"""`larder worker`: one of the processes of `larder serve --workers N`, which alone starts it.

On its line to the parent it says that it serves, or why it cannot, and is then handed the connections to serve. The line ends
with the parent, however that ends, and then the worker ends too, in order.
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
from app.cli.serving import Server, StopSignals, log_to_stderr, run_server
from app.cli.workers import SERVING
from app.main import create_app

_CANNOT_START = 1


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command; without a help text it is not listed."""
    parser = subparsers.add_parser("worker")
    parser.add_argument("--number", type=int, required=True, help="which of the workers this is, from 1")
    parser.add_argument("--line", type=int, required=True, help="file descriptor of the socket to the parent")
    parser.add_argument("--directory", type=Path, required=True, help="where the workers keep their tallies")


async def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal or the end of the parent."""
    log_to_stderr()
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=arguments.line) as line, StopSignals() as stop, stop.cancelling():
        line.settimeout(0)
        settings = read_settings()
        server = Server(create_app(settings, Tallies(arguments.directory, arguments.number)), settings)
        handed = _Handed(line, server, stop)
        loop.add_reader(line, handed.take)
        try:
            await run_server(server, [], stop, lambda: _say(line, SERVING))
        except CommandFailed as error:
            await _say(line, str(error).encode())
            return _CANNOT_START
        finally:
            loop.remove_reader(line)
            if handed.orphaned:
                shutil.rmtree(arguments.directory, ignore_errors=True)  # nobody else is left to do it
    return 0


async def _say(line: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, which is met where the line is read
        await asyncio.get_running_loop().sock_sendall(line, word)


class _Handed:
    """Takes the connections that come on the line."""

    def __init__(self, line: socket.socket, server: Server, stop: StopSignals) -> None:
        self.orphaned = False
        self._line = line
        self._server = server
        self._stop = stop
        self._beginning: set[asyncio.Task[None]] = set()

    def take(self) -> None:
        """Take all that are there."""
        while True:
            try:
                # One byte at a time: with it comes its own descriptor, and no other's.
                byte, descriptors, _, _ = socket.recv_fds(self._line, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                byte, descriptors = b"", []
            if not byte:
                self._ended()
                return
            for descriptor in descriptors:
                self._serve(socket.socket(fileno=descriptor))

    def _serve(self, connection: socket.socket) -> None:
        if self._server.should_exit:
            connection.close()
            return
        task = asyncio.create_task(self._server.adopt(connection))
        self._beginning.add(task)
        task.add_done_callback(self._begun)

    def _begun(self, task: "asyncio.Task[None]") -> None:
        self._beginning.discard(task)
        if not task.cancelled():
            task.exception()  # the client is gone already, which concerns nobody

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._line)
        if not self.orphaned:
            self.orphaned = True
            self._stop.end()

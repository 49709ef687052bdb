"""One of the processes that ``larder serve --workers N`` starts, by ``python -m larder_entry``.

It serves the connections that its parent sends, until a signal arrives or the parent is dead.
"""

import argparse
import os
import shutil
import socket
from pathlib import Path

from app.api.worker_metrics import SharedMetrics
from app.main import create_app
from app.server.errors import CannotServe
from app.server.handover import SERVING, ConnectionReceiver
from app.server.http_server import Server, run_server
from app.server.process import run_in_loop
from app.server.signals import StopSignals
from app.settings import Settings
from app.telemetry.log_format import log_to_stderr

_CANNOT_START = 1


def main() -> int:
    """Run the worker that the command line describes, and return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("number", type=int, help="which of the workers this is, from 1")
    parser.add_argument("channel", type=int, help="file descriptor of the socket to the parent")
    parser.add_argument("directory", type=Path, help="where the workers share their metrics")
    given = parser.parse_args()
    return run_in_loop(_serve(given.number, socket.socket(fileno=given.channel), given.directory))


async def _serve(number: int, channel: socket.socket, directory: Path) -> int:
    settings = Settings.from_env(os.environ)
    log_to_stderr(settings.log_format)
    with channel, StopSignals() as stop, stop.cancelling():
        server = Server(create_app(settings, SharedMetrics(directory, number)), settings)
        receiver = ConnectionReceiver(channel, server.adopt, stop.stop)
        try:
            with receiver:
                try:
                    await run_server(server, [], stop, lambda: receiver.report(SERVING))
                except CannotServe as error:
                    await receiver.report(str(error).encode())
                    return _CANNOT_START
        finally:
            if receiver.orphaned:
                shutil.rmtree(directory, ignore_errors=True)  # otherwise the parent removes it
    return 0

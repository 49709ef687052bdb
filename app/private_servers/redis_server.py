"""A private Redis-compatible server on a loopback port, without persistence."""

import contextlib
import random
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from app.private_servers.binaries import redis_program
from app.private_servers.errors import DirectoryNotWritable, ServerFailed
from app.private_servers.process import PrivateServer, ServerProcess, end_orphan, orphan

_HOST = "127.0.0.1"
# They are below the ports of outgoing connections, so that no such connection takes the port during a restart.
_PORTS = range(20_000, 32_000)
_PORT_ATTEMPTS = 8
_READY_S = 15.0
_STOP_PATIENCE_S = 5.0
_PID_FILE = "redis.pid"
_SNAPSHOT = "dump.rdb"

_OPTIONS = {
    "save": '""',
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "volatile-lfu",
    # A title would hide the arguments by which a later run recognises its orphan.
    "set-proc-title": "no",
}


class RedisServer(PrivateServer):
    """A running private Redis. ``start_redis`` makes it.

    Attributes:
        url: redis URL. ``restart`` does not change it.
        port: its TCP port on the loopback address.
    """

    def __init__(self, directory: Path, *, options: Mapping[str, str], program: Path | None, ports: Iterable[int]) -> None:
        super().__init__()
        self.directory = directory.absolute()
        self.port = 0
        self.url = ""
        self._options = {**_OPTIONS, **options}
        self._ports = ports
        self._program = (program or redis_program()).absolute()

    async def start(self) -> None:
        """Start the server and wait until it answers. It keeps its port; the first start chooses a free one.

        Raises:
            DirectoryNotWritable: its files cannot be written.
            ServerFailed: it did not start; the end of its log is in the message.
        """
        if self.port:
            await self._start_on(self.port)
            return
        failure = ServerFailed(f"No free TCP port between {_PORTS.start} and {_PORTS.stop - 1} on {_HOST}.")
        for port in islice(self._ports, _PORT_ATTEMPTS):
            try:
                await self._start_on(port)
            except ServerFailed as error:
                # Another port helps only if another program has taken this one since it was found free.
                if "in use" not in str(error):
                    raise
                failure = error
            else:
                self.port = port
                secret = self._options.get("requirepass")
                self.url = f"redis://{f':{secret}@' if secret else ''}{_HOST}:{port}/0"
                return
        raise failure

    async def stop(self) -> None:
        """Stop the server. Its data is lost."""
        await self._end(signal.SIGTERM, patience_s=_STOP_PATIENCE_S)

    async def restart(self, *, keep_snapshot: bool = False) -> None:
        """Stop the server if it runs, and start it again at the same URL.

        Args:
            keep_snapshot: load what the last ``SAVE`` wrote. Otherwise it starts empty.
        """
        await self.stop()
        if not keep_snapshot:
            (self.directory / _SNAPSHOT).unlink(missing_ok=True)
        await self.start()

    async def _start_on(self, port: int) -> None:
        configuration = self._write_configuration(port)
        process = ServerProcess(
            [str(self._program), str(configuration)], log=self.directory / "redis.log", user=None, environment={"LC_ALL": "C"}
        )
        self._process = process
        await process.until_ready(lambda: _answers(port) and self._owns_pid_file(process), deadline_s=_READY_S)

    def _write_configuration(self, port: int) -> Path:
        path = self.directory / "redis.conf"
        fixed = {
            "bind": _HOST,
            "port": str(port),
            "dir": f'"{self.directory}"',
            "pidfile": f'"{self.directory / _PID_FILE}"',
            "dbfilename": _SNAPSHOT,
        }
        try:
            # The server writes its pid file after it has bound the port. An old file would make it look ready too early.
            (self.directory / _PID_FILE).unlink(missing_ok=True)
            path.write_text("".join(f"{name} {value}\n" for name, value in {**fixed, **self._options}.items()))
            path.chmod(0o600)
        except OSError as error:
            raise DirectoryNotWritable(f"{self.directory} cannot be written to ({error.strerror}).") from error
        return path

    def _owns_pid_file(self, process: ServerProcess) -> bool:
        with contextlib.suppress(OSError):
            return (self.directory / _PID_FILE).read_text().strip() == str(process.pid)
        return False


async def start_redis(
    directory: Path,
    *,
    options: Mapping[str, str] | None = None,
    program: Path | None = None,
    ports: Iterable[int] | None = None,
) -> RedisServer:
    """Start a private, empty Redis-compatible server on the loopback address.

    The caller holds the lock of the directory around ``directory`` (``ServerDirectory``). A server that an earlier owner left
    running there when it was killed is stopped first.

    Args:
        directory: directory for its configuration, log and pid file. Its parent exists.
        options: lines of its configuration beyond the defaults. ``requirepass`` goes into the URL, too.
        program: a server program to use instead of the wheel's.
        ports: ports to try in this order, by default free ones in random order.

    Raises:
        ExtraMissing: the program is not installed.
        DirectoryNotWritable: the files cannot be made.
        ServerFailed: it did not start.
    """
    server = RedisServer(directory, options=options or {}, program=program, ports=_free_ports() if ports is None else ports)
    try:
        server.directory.mkdir(exist_ok=True)
        (server.directory / _SNAPSHOT).unlink(missing_ok=True)
    except OSError as error:
        raise DirectoryNotWritable(f"{server.directory} cannot be written to ({error.strerror}).") from error
    if (process := orphan(server.directory / _PID_FILE, server.directory)) is not None:
        await end_orphan(process, signal.SIGTERM, patience_s=_STOP_PATIENCE_S)
    await server.start()
    return server


def _free_ports() -> Iterator[int]:
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        yield port


def _answers(port: int) -> bool:
    # A server with a password refuses the PING, but it is up.
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1) as connection:
        connection.sendall(b"*1\r\n$4\r\nPING\r\n")
        return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    return False

"""A private Redis-compatible server on a Unix socket, without persistence.

Its socket is in a directory of mode 0700, and every connection needs a password. A TCP port is for measurements, whose clients
need one: every account of the machine reaches it, so there the password is all that keeps others out.
"""

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from app.private_servers.account import give, let_reach, open_programs, server_account
from app.private_servers.binaries import redis_program
from app.private_servers.directory import socket_directory
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
_CONFIGURATION = "redis.conf"
_SOCKET_PREFIX = "larder-redis-"
_SOCKET_NAME = "redis.sock"

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
        url: redis URL with the password. ``restart`` does not change it.
        password: what every client needs.
        socket: the path of its Unix socket.
        port: its TCP port on the loopback address, 0 if it has none.
    """

    def __init__(
        self, directory: Path, *, options: Mapping[str, str], program: Path | None, ports: Iterable[int] | None
    ) -> None:
        super().__init__()
        self.directory = directory.absolute()
        self.port = 0
        self.url = ""
        self._options = {**_OPTIONS, "requirepass": secrets.token_urlsafe(24), **options}
        self.password = self._options["requirepass"]
        self._ports = ports
        self._of_wheel = program is None
        self._program = (program or redis_program()).absolute()
        self._account = server_account()
        # The socket is not below the directory, because a socket path is limited to about 100 bytes.
        self.socket = socket_directory(_SOCKET_PREFIX) / _SOCKET_NAME
        give(self.socket.parent, self._account)

    def prepare(self) -> None:
        """Make the directory on first use, and let the server's account reach its program. It blocks.

        Raises:
            DirectoryNotWritable: the directory cannot be made.
            ServerFailed: the program cannot be run.
        """
        if self._of_wheel:
            open_programs(self._program.parent, self._program.name, self._account)
        else:
            let_reach(self._program, self._account)
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            (self.directory / _SNAPSHOT).unlink(missing_ok=True)
        except OSError as error:
            raise DirectoryNotWritable(f"{self.directory} cannot be written to ({error.strerror}).") from error

    async def start(self) -> None:
        """Start the server and wait until it answers. It keeps its port, if it has one.

        Raises:
            DirectoryNotWritable: its files cannot be written.
            ServerFailed: it did not start; the end of its log is in the message.
        """
        if self.port or self._ports is None:
            await self._start_on(self.port)
            if not self.port:
                self.url = f"unix://:{quote(self.password, safe='')}@{self.socket}?db=0"
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
                self.url = f"redis://:{quote(self.password, safe='')}@{_HOST}:{port}/0"
                return
        raise failure

    async def stop(self) -> None:
        """Stop the server and remove its socket. Its data is lost, and it cannot be started again."""
        await self._end(signal.SIGTERM, patience_s=_STOP_PATIENCE_S)
        shutil.rmtree(self.socket.parent, ignore_errors=True)

    async def restart(self, *, keep_snapshot: bool = False) -> None:
        """Stop the server if it runs, and start it again at the same URL.

        Args:
            keep_snapshot: load what the last ``SAVE`` wrote. Otherwise it starts empty.
        """
        await self._end(signal.SIGTERM, patience_s=_STOP_PATIENCE_S)
        if not keep_snapshot:
            (self.directory / _SNAPSHOT).unlink(missing_ok=True)
        await self.start()

    async def _start_on(self, port: int) -> None:
        configuration = self._write_configuration(port)
        process = ServerProcess(
            [str(self._program), str(configuration)],
            log=self.directory / "redis.log",
            user=self._account,
            environment={"LC_ALL": "C"},
        )
        self._process = process
        await process.until_ready(lambda: self._answers() and self._owns_pid_file(process), deadline_s=_READY_S)

    def _write_configuration(self, port: int) -> Path:
        path = self.directory / _CONFIGURATION
        fixed = {
            "bind": _HOST,
            "port": str(port),
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": _quoted(self.directory),
            "pidfile": _quoted(self.directory / _PID_FILE),
            "dbfilename": _SNAPSHOT,
        }
        try:
            # The server writes its pid file after it has bound the port. An old file would make it look ready too early.
            (self.directory / _PID_FILE).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(os.fsencode("".join(f"{name} {value}\n" for name, value in {**fixed, **self._options}.items())))
            give(self.directory, self._account, path)
        except OSError as error:
            raise DirectoryNotWritable(f"{self.directory} cannot be written to ({error.strerror}).") from error
        return path

    def _answers(self) -> bool:
        # It refuses the PING, which has no password, but it is up.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(self.socket))
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

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
    """Start a private, empty Redis-compatible server.

    The caller holds the lock of the directory around ``directory`` (``ServerDirectory``). A server that an earlier owner left
    running there when it was killed is stopped first.

    Args:
        directory: directory for its configuration, log and pid file. Its parent exists.
        options: lines of its configuration beyond the defaults. ``requirepass`` replaces the password, which is random.
        program: a server program to use instead of the wheel's.
        ports: loopback ports to try in this order for a TCP port beside the socket, such as ``free_ports()``.

    Raises:
        ExtraMissing: the program is not installed.
        DirectoryNotWritable: the files cannot be made.
        ServerFailed: it did not start.
    """
    server = RedisServer(directory, options=options or {}, program=program, ports=ports)
    try:
        await asyncio.to_thread(server.prepare)
        if (process := orphan(server.directory / _PID_FILE, server.directory)) is not None:
            await end_orphan(process, signal.SIGTERM, patience_s=_STOP_PATIENCE_S)
        _remove_old_socket(server.directory)
        await server.start()
    except BaseException:
        await server.stop()
        raise
    return server


def _quoted(path: Path) -> str:
    """Return the path as a word of the configuration, whatever characters it has."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'


def _remove_old_socket(directory: Path) -> None:
    """Remove the socket that a killed owner left behind; the old configuration names it."""
    with contextlib.suppress(OSError):
        for line in (directory / _CONFIGURATION).read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "unixsocket" and Path(value).parent.name.startswith(_SOCKET_PREFIX):
                shutil.rmtree(Path(value).parent, ignore_errors=True)


def free_ports() -> Iterator[int]:
    """Yield free ports of the loopback address in random order. Another program may take one meanwhile."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        yield port

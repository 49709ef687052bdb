"""A PgBouncer in transaction mode in front of a private PostgreSQL. It can be pointed at another server while it runs."""

import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from app.postgres.database import limits_of
from app.postgres.pooler import role_parameters, set_role
from app.postgres.primary import Primary
from app.private_servers.account import give, server_account
from app.private_servers.process import ServerProcess

HOST = "127.0.0.1"
USERS = ("postgres",)
_POLL_S = 0.01
_READY_S = 10.0
_CONNECT_TIMEOUT_MS = 10_000
_STATEMENT_TIMEOUT_MS, _LOCK_TIMEOUT_MS = 5_000, 2_000
_ENVIRONMENT = {"PATH": os.defpath}
_ADMIN = "postgres"


def pgbouncer_program() -> str | None:
    """Return where PgBouncer is, if it is installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def place_of(url: str, **others: object) -> dict[str, object]:
    """Return where the server of a URL is, as PgBouncer's file names it."""
    parts = conninfo_to_dict(url)
    return {name: parts[name] for name in ("host", "port") if name in parts} | others


async def prepare_role(url: str) -> None:
    """Give the role of a database's URL the settings that ``larder migrate`` gives it."""
    limits = limits_of(_STATEMENT_TIMEOUT_MS, _LOCK_TIMEOUT_MS)
    async with await Primary(url).open(_CONNECT_TIMEOUT_MS) as connection:
        await set_role(connection, role_parameters(limits))


class PgBouncer:
    """A running PgBouncer. ``start_pgbouncer`` makes it.

    Args:
        directory: its files.
        server: where every database is: libpq's ``name=value`` pairs.
        options: its settings, by name.
    """

    def __init__(self, directory: Path, server: Mapping[str, object], options: Mapping[str, str]) -> None:
        self._directory = directory
        self._options = {
            "pool_mode": "transaction",
            "listen_addr": HOST,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(directory / "users.txt"),
            "admin_users": _ADMIN,
            "max_client_conn": "500",
            "default_pool_size": "40",
            "server_login_retry": "0",
            **options,
        }
        self.port = _free_port()
        self._server = server
        self._program = ""
        self._process: ServerProcess | None = None

    def url(self, database: str) -> str:
        """Return the URL of a database through it."""
        return f"postgresql://postgres@{HOST}:{self.port}/{quote(database, safe='')}?sslmode=disable"

    async def start(self, program: str) -> None:
        """Start it, and wait until it answers."""
        self._program = program
        account = server_account()
        users = self._directory / "users.txt"
        users.write_text("".join(f'"{user}" ""\n' for user in USERS))
        self._write()
        give(self._directory, account, users, self._directory / "pgbouncer.ini")
        await self.restart()

    async def restart(self) -> None:
        """Start it again after ``stop`` or ``kill``, on the same port."""
        command = [self._program, str(self._directory / "pgbouncer.ini")]
        self._process = ServerProcess(
            command, log=self._directory / "pgbouncer.log", user=server_account(), environment=_ENVIRONMENT
        )
        await self._process.until_ready(self._answers, deadline_s=_READY_S)

    async def point_at(self, server: Mapping[str, object]) -> None:
        """Let new transactions go to another server, as an operator does: the file, then RELOAD."""
        self._server = server
        self._write()
        await self.command("RELOAD")

    async def command(self, command: str) -> Sequence[tuple[object, ...]]:
        """Run a command of the administrator's console; return its rows."""
        url = f"postgresql://{_ADMIN}@{HOST}:{self.port}/pgbouncer?sslmode=disable"
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as console:
            # The console speaks the simple protocol alone.
            cursor = psycopg.AsyncClientCursor(console)
            await cursor.execute(command.encode())
            return await cursor.fetchall() if cursor.description else []

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            await self._process.kill()

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            await self._process.stop(signal.SIGTERM, patience_s=_READY_S)

    def _write(self) -> None:
        place = " ".join(f"{name}={value}" for name, value in self._server.items())
        settings = "".join(f"{name} = {value}\n" for name, value in {**self._options, "listen_port": self.port}.items())
        file = self._directory / "pgbouncer.ini"
        file.write_text(f"[databases]\n* = {place}\n[pgbouncer]\n{settings}")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


@asynccontextmanager
async def start_pgbouncer(directory: Path, server: Mapping[str, object], **options: str) -> AsyncIterator[PgBouncer]:
    """Start PgBouncer with its files in ``directory``, in front of a server; stop it at the end."""
    program = pgbouncer_program()
    assert program is not None, "PgBouncer is not installed (on Debian: apt-get install --no-install-recommends pgbouncer)"
    directory.mkdir()
    pooler = PgBouncer(directory, server, options)
    try:
        await pooler.start(program)
        yield pooler
    finally:
        await pooler.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])

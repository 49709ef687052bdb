"""A private PostgreSQL on a Unix socket."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.private_servers.account import give, open_programs, server_account
from app.private_servers.binaries import postgres_directory
from app.private_servers.directory import socket_directory
from app.private_servers.errors import DirectoryNotWritable, ServerFailed
from app.private_servers.process import PrivateServer, ServerProcess, end_orphan, is_zombie, orphan

_SUPERUSER = "postgres"
_SOCKET_PREFIX = "larder-postgres-"
_READY_S = 60.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT)
_STOP_PATIENCE_S = 10.0
_BUILTIN_LOCALE_SINCE = 17
_PID_FILE = "postmaster.pid"
# Lines of the pid file, counted from 0.
_LINE_PID, _LINE_SOCKET_DIRECTORY, _LINE_STATUS = 0, 4, 7
# Nothing is inherited, because the caller's PG* variables and locale are meant for other servers.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_OPTIONS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Counts statements for the benchmarks from the start. Creating the extension only adds the views that show the counts.
    "shared_preload_libraries": "pg_stat_statements",
}


class PostgresServer(PrivateServer):
    """A running private PostgreSQL. ``start_postgres`` makes it.

    Attributes:
        url: libpq URL of its database. ``restart`` does not change it.
        data_dir: its files. ``stop`` does not remove them.
    """

    def __init__(self, data_dir: Path, *, database: str, options: Mapping[str, str], programs: Path | None) -> None:
        super().__init__()
        self.data_dir = data_dir.absolute()
        self._programs = (programs or postgres_directory()).absolute()
        self._account = server_account()
        self._options = {**_OPTIONS, **options}
        # The socket is not below data_dir, because a socket path is limited to about 100 bytes.
        self._socket_dir = socket_directory(_SOCKET_PREFIX)
        give(self._socket_dir, self._account)
        self.url = self.url_of(database)

    def url_of(self, database: str) -> str:
        """Return the libpq URL of a database of this server."""
        # The port is a part of the socket's name. It stands here in any case, because PGPORT would replace one left out.
        port = self._options["port"]
        return (
            f"postgresql://{_SUPERUSER}@/{quote(database, safe='')}?port={port}&host={quote(str(self._socket_dir), safe='/')}"
        )

    def prepare(self) -> None:
        """Make the files on first use, and check those of an earlier one. It blocks.

        Raises:
            DirectoryNotWritable: the files cannot be made.
            ServerFailed: they cannot be used.
        """
        open_programs(self._programs, "postgres", self._account)
        try:
            self._initialise()
        except OSError as error:
            raise DirectoryNotWritable(f"{self.data_dir} cannot be written to ({error.strerror}).") from error

    def _initialise(self) -> None:
        ours = self._run("postgres", "--version").stdout.removeprefix("postgres (PostgreSQL) ").partition(".")[0].strip()
        version_file = self.data_dir / "PG_VERSION"
        if version_file.exists():
            if (theirs := version_file.read_text().strip()) != ours:
                raise ServerFailed(
                    f"{self.data_dir} was made by PostgreSQL {theirs}, the installed one is {ours}. Nothing was changed. "
                    "Dump it with the old one, or move the directory away to begin anew."
                )
            give(self.data_dir, self._account)
            return
        # initdb writes to another name first, so that a cluster left unfinished by a killed initdb is never used.
        unfinished = self.data_dir.with_name(self.data_dir.name + ".unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir()
        give(unfinished, self._account)
        options = ["--username", _SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-instructions", *_locale(ours)]
        if self._options.get("fsync") == "off":
            options.append("--no-sync")  # nothing that is written later reaches the disk, either
        done = self._run("initdb", "-D", str(unfinished), *options)
        if done.returncode != 0:
            raise ServerFailed(f"initdb failed: {done.stderr.strip()}")
        unfinished.rename(self.data_dir)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=_ENVIRONMENT,
            user=self._account,
            group=self._account,
            extra_groups=None if self._account is None else [],
        )

    async def start(self) -> None:
        """Start the server on its files and wait until it accepts connections.

        Raises:
            ServerFailed: it did not start; the end of its log is in the message.
        """
        command = [str(self._programs / "postgres"), "-D", str(self.data_dir), "-k", str(self._socket_dir)]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        log = self.data_dir.with_name(self.data_dir.name + ".log")
        process = ServerProcess(command, log=log, user=self._account, environment=_ENVIRONMENT)
        self._process = process
        await process.until_ready(lambda: self._is_ready(process), deadline_s=_READY_S)

    async def stop(self) -> None:
        """Stop the server, which rolls back open transactions, and remove its socket. The data stays."""
        await self._end(*_STOP_SIGNALS, patience_s=_STOP_PATIENCE_S)
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    async def restart(self) -> None:
        """Stop the server if it runs, and start it again at the same URL."""
        await self._end(*_STOP_SIGNALS, patience_s=_STOP_PATIENCE_S)
        await self.start()

    def _is_ready(self, process: ServerProcess) -> bool:
        lines = _pid_file_lines(self.data_dir)
        return len(lines) > _LINE_STATUS and lines[_LINE_PID] == str(process.pid) and lines[_LINE_STATUS] == "ready"


async def start_postgres(
    data_dir: Path,
    *,
    database: str = "larder",
    options: Mapping[str, str] | None = None,
    programs: Path | None = None,
) -> PostgresServer:
    """Start a private PostgreSQL, with a database.

    The caller holds the lock of the directory around ``data_dir`` (``ServerDirectory``). A server that an earlier owner left
    running there when it was killed is stopped first. Only this account can reach the socket, so there is no password.

    Args:
        data_dir: directory for its files, made on first use. Its parent exists.
        database: name of the database that the URL leads to. It is created if it is missing.
        options: server settings beyond the defaults.
        programs: directory with an ``initdb`` and a ``postgres`` to use instead of the wheel's.

    Raises:
        ExtraMissing: the programs are not installed.
        DirectoryNotWritable: the files cannot be made.
        ServerFailed: it did not start.
    """
    server = PostgresServer(data_dir, database=database, options=options or {}, programs=programs)
    try:
        await _end_orphan(server.data_dir)
        await asyncio.to_thread(server.prepare)
        await server.start()
        await _create_database(server, database)
    except BaseException:
        await server.stop()
        raise
    return server


def _locale(major_version: str) -> list[str]:
    # Sort bytewise and use Unicode case rules on every machine. Older versions have both only through the C library.
    if int(major_version) >= _BUILTIN_LOCALE_SINCE:
        return ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8"]


async def _create_database(server: PostgresServer, database: str) -> None:
    try:
        async with await psycopg.AsyncConnection.connect(server.url_of("postgres"), autocommit=True) as connection:
            known = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
            if await known.fetchone() is None:
                await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    except psycopg.Error as error:
        raise ServerFailed(f"The private PostgreSQL runs, but its database could not be made: {error}") from error


async def _end_orphan(data_dir: Path) -> None:
    lines = _pid_file_lines(data_dir)
    if (process := orphan(data_dir / _PID_FILE, data_dir)) is not None:
        await end_orphan(process, *_STOP_SIGNALS, patience_s=_STOP_PATIENCE_S)
    if not lines:
        return
    if is_zombie(lines[_LINE_PID]):
        # In a container whose first process does not reap, dead processes stay in the process table. PostgreSQL looks only
        # there, and would take its dead predecessor for a running one.
        (data_dir / _PID_FILE).unlink(missing_ok=True)
    socket_dir = Path(lines[_LINE_SOCKET_DIRECTORY] if len(lines) > _LINE_SOCKET_DIRECTORY else "")
    if socket_dir.name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(socket_dir, ignore_errors=True)


def _pid_file_lines(data_dir: Path) -> list[str]:
    try:
        return [line.strip() for line in (data_dir / _PID_FILE).read_text().splitlines()]
    except OSError:
        return []

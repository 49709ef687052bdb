"""A copy of a private PostgreSQL. It keeps its state, or follows by streaming until it is promoted."""

import asyncio
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from app.private_servers import PostgresServer
from app.private_servers.account import give, server_account
from app.private_servers.binaries import postgres_directory
from app.private_servers.process import ServerProcess

_POLL_S = 0.02
_FOLLOWS_S = 20.0


class Standby(PostgresServer):
    """A copy of a server. It is ready when it accepts connections that read."""

    def _is_ready(self, process: ServerProcess) -> bool:
        pid_file = self.data_dir / "postmaster.pid"
        lines = [line.strip() for line in pid_file.read_text().splitlines()] if pid_file.exists() else []
        return len(lines) > 7 and lines[0] == str(process.pid) and lines[7] in ("standby", "ready")


async def copy_server(primary: PostgresServer, directory: Path, database: str, *, streaming: bool) -> Standby:
    """Return a copy of a running server, not started yet. Without ``streaming`` the copy falls behind from now on."""
    account = server_account()
    directory.mkdir()
    give(directory, account)
    await run_program("pg_basebackup", "-D", directory, "-d", primary.url, "--checkpoint=fast", user=account)
    (directory / "standby.signal").touch()
    options = {"fsync": "off", "max_connections": "120"}
    if streaming:
        host = parse_qs(urlsplit(primary.url).query)["host"][0]
        options["primary_conninfo"] = f"host={host} user=postgres"
    return Standby(directory, database=database, options=options, programs=None)


async def until_level(primary: PostgresServer, standby: PostgresServer) -> None:
    """Wait until a streaming standby has replayed what the primary has written by now.

    Raises:
        TimeoutError: it does not follow.
    """
    async with (
        asyncio.timeout(_FOLLOWS_S),
        await psycopg.AsyncConnection.connect(primary.url, autocommit=True) as ahead,
        await psycopg.AsyncConnection.connect(standby.url, autocommit=True) as behind,
    ):
        written = await (await ahead.execute("SELECT pg_current_wal_lsn()")).fetchone()
        while True:
            level = await (await behind.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)).fetchone()
            if level == (True,):
                return
            await asyncio.sleep(_POLL_S)


async def run_program(program: str, *arguments: object, user: str | None = None) -> None:
    """Run one of PostgreSQL's programs. If it fails, the error has its output."""

    def run() -> "subprocess.CompletedProcess[str]":
        command = [str(postgres_directory() / program), *map(str, arguments)]
        groups: list[str] | None = None if user is None else []
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", user=user, group=user, extra_groups=groups
        )

    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr

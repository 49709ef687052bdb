"""A Redis with failover on this machine: data servers, and the sentinels that choose the master among them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import redis.asyncio
import redis.exceptions

from app.private_servers import RedisServer, start_redis
from app.private_servers.binaries import redis_program
from app.private_servers.redis_server import free_ports

SERVICE = "larder"
DOWN_AFTER_S = 1.5
"""How long a master must be silent before sentinels look for another one."""
PASSWORD = "of-the-data"
SENTINEL_PASSWORD = "of-the-sentinels"
_POLL_S = 0.05
_HOST = "127.0.0.1"


class Sentinels:
    """Two data servers and three sentinels, running. ``start_sentinels`` makes it."""

    def __init__(self, servers: Sequence[RedisServer], sentinels: Sequence[RedisServer]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def password(self) -> str:
        """The password of the sentinels, which the data servers do not accept."""
        return SENTINEL_PASSWORD

    @property
    def url(self) -> str:
        """The URL by which Larder finds the master."""
        places = ",".join(f"{_HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"sentinel://:{PASSWORD}@{places}/0?service={SERVICE}"

    async def masters(self) -> list[int]:
        """Return the port that each sentinel names."""
        answers = await asyncio.gather(
            *(
                _ask(sentinel.port, SENTINEL_PASSWORD, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                for sentinel in self.sentinels
            )
        )
        return [int(answer[1]) for answer in answers]

    async def master(self) -> RedisServer:
        """Return the data server that all sentinels name. Raises ``TimeoutError`` if they do not agree in time."""
        return await self._until_named(lambda ports: len(set(ports)) == 1)

    async def other_master(self, old: RedisServer, deadline_s: float = 30.0) -> RedisServer:
        """Wait until all sentinels name another server than ``old``, and return it."""
        return await self._until_named(lambda ports: len(set(ports)) == 1 and ports[0] != old.port, deadline_s)

    async def until_replicated(self, deadline_s: float = 60.0) -> None:
        """Wait until the other data server is a replica of the master, and in step with it."""
        master = await self.master()
        end = time.monotonic() + deadline_s
        for server in self.servers:
            while server is not master and not await _follows(server):
                if time.monotonic() > end:
                    raise TimeoutError(f"the server at {server.port} is no replica of {master.port}")
                await asyncio.sleep(_POLL_S)

    async def _until_named(self, agreed: Callable[[list[int]], bool], deadline_s: float = 30.0) -> RedisServer:
        end = time.monotonic() + deadline_s
        while not agreed(ports := await self.masters()):
            if time.monotonic() > end:
                raise TimeoutError(f"the sentinels name {ports}")
            await asyncio.sleep(_POLL_S)
        return next(server for server in self.servers if server.port == ports[0])


async def _ask(port: int, password: str, *command: str) -> Any:
    client = redis.asyncio.Redis(host=_HOST, port=port, password=password, socket_timeout=5, decode_responses=True)
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    finally:
        await client.aclose()


async def _follows(server: RedisServer) -> bool:
    """Whether a data server is a replica that is connected to its master."""
    with suppress(redis.exceptions.RedisError, OSError):
        info = await _ask(server.port, PASSWORD, "INFO", "replication")
        return bool(info["role"] == "slave" and info["master_link_status"] == "up")
    return False


@asynccontextmanager
async def start_sentinels(directory: Path, program: Path | None = None) -> AsyncIterator[Sentinels]:
    """Start a master, its replica and three sentinels in ``directory``; stop them at the end.

    Args:
        directory: an empty directory under the session's lock.
        program: the server's program, the wheel's by default. It becomes a sentinel by its name.
    """
    as_sentinel = directory / "valkey-sentinel" / "redis-sentinel"
    as_sentinel.parent.mkdir()
    as_sentinel.symlink_to(program or redis_program())
    async with AsyncExitStack() as opened:
        servers: list[RedisServer] = []
        for number in range(2):
            options = {"requirepass": PASSWORD, "masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
            if servers:
                options["replicaof"] = f"{_HOST} {servers[0].port}"
            servers.append(
                await start_redis(directory / f"data-{number}", options=options, program=program, ports=free_ports())
            )
            opened.push_async_callback(servers[-1].stop)
        sentinels: list[RedisServer] = []
        for number in range(3):
            options = {
                "requirepass": SENTINEL_PASSWORD,
                "sentinel sentinel-pass": SENTINEL_PASSWORD,
                "sentinel monitor": f"{SERVICE} {_HOST} {servers[0].port} 2",
                "sentinel auth-pass": f"{SERVICE} {PASSWORD}",
                "sentinel down-after-milliseconds": f"{SERVICE} {int(DOWN_AFTER_S * 1000)}",
                "sentinel failover-timeout": f"{SERVICE} 5000",
            }
            place = directory / f"sentinel-{number}"
            sentinels.append(await start_redis(place, options=options, program=as_sentinel, ports=free_ports()))
            opened.push_async_callback(sentinels[-1].stop)
        running = Sentinels(servers, sentinels)
        await running.until_replicated()
        await _until_acquainted(sentinels)
        yield running


async def _until_acquainted(sentinels: Sequence[RedisServer], deadline_s: float = 30.0) -> None:
    """Wait until each sentinel knows the others and the replica, without which none fails over."""
    end = time.monotonic() + deadline_s
    for sentinel in sentinels:
        while True:
            others = await _ask(sentinel.port, SENTINEL_PASSWORD, "SENTINEL", "SENTINELS", SERVICE)
            replicas = await _ask(sentinel.port, SENTINEL_PASSWORD, "SENTINEL", "REPLICAS", SERVICE)
            if len(others) == len(sentinels) - 1 and replicas:
                break
            if time.monotonic() > end:
                raise TimeoutError("the sentinels do not find each other")
            await asyncio.sleep(_POLL_S)

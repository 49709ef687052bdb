"""A Redis with failover on this machine: data servers, and the sentinels that choose the master among them."""

import asyncio
import re
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
from tests.harness.proxy import Proxy, Target

SERVICE = "larder"
DOWN_AFTER_S = 1.5
"""How long a master must be silent before sentinels look for another one."""
PASSWORD = "of-the-data"
SENTINEL_PASSWORD = "of-the-sentinels"
SERVICES = 3
"""Services that have a user of their own at the data servers, by which they can be cut off."""
_USER = re.compile(rb"service[0-9]")
_POLL_S = 0.05
_HOST = "127.0.0.1"


class _Way:
    """The way of one client to a data server. It breaks when what passes is of a service that is cut off."""

    def __init__(self, cut: "set[int]") -> None:
        self._cut = cut
        self._service = -1

    def sent(self, data: bytes) -> bool:
        if self._service < 0 and (found := _USER.search(data)):
            self._service = int(found[0][-1:])
        return self._service not in self._cut

    def answered(self, data: bytes) -> bool:
        del data
        return self._service not in self._cut


class Sentinels:
    """Two data servers and three sentinels, running. ``start_sentinels`` makes it.

    Attributes:
        cut: numbers of the services that reach no data server, though they reach the sentinels and the sentinels reach all.
    """

    def __init__(
        self, servers: Sequence[RedisServer], sentinels: Sequence[RedisServer], ports: Sequence[int], cut: "set[int]"
    ) -> None:
        self.servers = servers
        self.sentinels = sentinels
        self.cut = cut
        self._ports = ports
        """Where each data server is known to be: a proxy, or the server itself."""

    @property
    def password(self) -> str:
        """The password of the sentinels, which the data servers do not accept."""
        return SENTINEL_PASSWORD

    @property
    def url(self) -> str:
        """The URL by which Larder finds the master."""
        return self.url_of("")

    def url_of(self, user: str) -> str:
        """Return the URL for a user of the data servers."""
        places = ",".join(f"{_HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"sentinel://{user}:{PASSWORD}@{places}/0?service={SERVICE}"

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
        return await self._until_named(lambda ports: len(set(ports)) == 1 and ports[0] != self._port_of(old), deadline_s)

    async def until_replicated(self, deadline_s: float = 60.0) -> None:
        """Wait until the other data server is a replica of the master, and in step with it."""
        master = await self.master()
        end = time.monotonic() + deadline_s
        for server in self.servers:
            while server is not master and not await _follows(server):
                if time.monotonic() > end:
                    raise TimeoutError(f"the server at {server.port} is no replica of {master.port}")
                await asyncio.sleep(_POLL_S)

    def _port_of(self, server: RedisServer) -> int:
        return self._ports[self.servers.index(server)]

    async def _until_named(self, agreed: Callable[[list[int]], bool], deadline_s: float = 30.0) -> RedisServer:
        end = time.monotonic() + deadline_s
        while not agreed(ports := await self.masters()):
            if time.monotonic() > end:
                raise TimeoutError(f"the sentinels name {ports}")
            await asyncio.sleep(_POLL_S)
        return self.servers[self._ports.index(ports[0])]


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
    async with _started(directory, program) as sentinels:
        yield sentinels


@asynccontextmanager
async def start_divisible_sentinels(directory: Path) -> AsyncIterator[Sentinels]:
    """Start the same, with a proxy in front of each data server, so that services can be cut off from both."""
    cut: set[int] = set()
    async with AsyncExitStack() as opened:
        proxies = [Proxy(Target(), lambda: _Way(cut)) for _ in range(2)]
        for proxy in proxies:
            await proxy.open()
            opened.push_async_callback(proxy.aclose)
        yield await opened.enter_async_context(_started(directory, None, proxies, cut))


@asynccontextmanager
async def _started(
    directory: Path, program: Path | None, proxies: Sequence[Proxy] = (), cut: "set[int] | None" = None
) -> AsyncIterator[Sentinels]:
    as_sentinel = directory / "valkey-sentinel" / "redis-sentinel"
    as_sentinel.parent.mkdir()
    as_sentinel.symlink_to(program or redis_program())
    async with AsyncExitStack() as opened:
        servers: list[RedisServer] = []
        ports: list[int] = []
        for number in range(2):
            options = {"requirepass": PASSWORD, "masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
            if servers:
                options["replicaof"] = f"{_HOST} {ports[0]}"
            if proxies:
                options |= {"replica-announce-ip": _HOST, "replica-announce-port": str(proxies[number].port)}
                options |= {f"user service{service}": f"on >{PASSWORD} ~* &* +@all" for service in range(SERVICES)}
            servers.append(
                await start_redis(directory / f"data-{number}", options=options, program=program, ports=free_ports())
            )
            opened.push_async_callback(servers[-1].stop)
            if proxies:
                proxies[number].target = Target(port=servers[-1].port)
            ports.append(proxies[number].port if proxies else servers[-1].port)
        sentinels: list[RedisServer] = []
        for number in range(3):
            options = {
                "requirepass": SENTINEL_PASSWORD,
                "sentinel sentinel-pass": SENTINEL_PASSWORD,
                "sentinel monitor": f"{SERVICE} {_HOST} {ports[0]} 2",
                "sentinel auth-pass": f"{SERVICE} {PASSWORD}",
                "sentinel down-after-milliseconds": f"{SERVICE} {int(DOWN_AFTER_S * 1000)}",
                "sentinel failover-timeout": f"{SERVICE} 5000",
            }
            place = directory / f"sentinel-{number}"
            sentinels.append(await start_redis(place, options=options, program=as_sentinel, ports=free_ports()))
            opened.push_async_callback(sentinels[-1].stop)
        running = Sentinels(servers, sentinels, ports, set() if cut is None else cut)
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

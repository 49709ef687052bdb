"""A Redis Cluster on this machine: masters that share the hash slots, and replicas of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import redis.asyncio
import redis.exceptions

from app.private_servers import RedisServer, free_ports, start_redis

PASSWORD = "of-the-cluster"
NODE_TIMEOUT_S = 1.5
"""How long a master must be silent before its replica takes over."""
_HOST = "127.0.0.1"
_SLOTS = 16_384
_POLL_S = 0.05


class RedisCluster:
    """Nodes, running; ``servers`` begin with the first masters. ``start_redis_cluster`` makes it."""

    def __init__(self, servers: Sequence[RedisServer]) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        """The URL of the first node."""
        return self.servers[0].url

    async def ask(self, server: RedisServer, *command: str | int | bytes) -> Any:
        """Send one command to one node; no redirection is followed."""
        client = redis.asyncio.Redis(host=_HOST, port=server.port, password=PASSWORD, socket_timeout=10)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        finally:
            await client.aclose()

    async def id_of(self, server: RedisServer) -> str:
        """Return the name of a node within the cluster."""
        answer = await self.ask(server, "CLUSTER", "MYID")
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    async def owner(self, slot: int, asked: RedisServer | None = None) -> RedisServer:
        """Return the master that has a slot, as one node says."""
        for first, last, master, *_ in await self.ask(asked or self.servers[0], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == int(master[1]))
        raise LookupError(f"nobody has slot {slot}")

    async def begin_move(self, slot: int, target: RedisServer) -> RedisServer:
        """Open a slot for a move to ``target``; return the node that it moves from."""
        source = await self.owner(slot)
        await self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", await self.id_of(source))
        await self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", await self.id_of(target))
        return source

    async def carry(self, source: RedisServer, target: RedisServer, keys: Sequence[bytes], *, copy: bool = False) -> None:
        """Move keys, or copy them, as a move whose answer was lost does."""
        if keys:
            options = ("COPY", "REPLACE") if copy else ("REPLACE",)
            await self.ask(source, "MIGRATE", _HOST, target.port, "", 0, 5_000, *options, "AUTH", PASSWORD, "KEYS", *keys)

    async def break_off(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """End a move before its end: the source keeps the slot, and the target the copies that it has."""
        await self.ask(source, "CLUSTER", "SETSLOT", slot, "STABLE")
        await self.ask(target, "CLUSTER", "SETSLOT", slot, "STABLE")

    async def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move what is left of a slot, and give it to the target."""
        while keys := await self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1_000):
            await self.carry(source, target, keys)
        name = await self.id_of(target)
        for server in (target, source, *self.servers):
            with suppress(redis.exceptions.ResponseError, redis.exceptions.ConnectionError):  # a replica, or a dead node
                await self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", name)

    async def move(self, slot: int, target: RedisServer) -> None:
        """Move a slot key by key, as ``redis-cli --cluster reshard`` does."""
        await self.end_move(slot, await self.begin_move(slot, target), target)

    async def replica_of(self, master: RedisServer) -> RedisServer:
        """Return a replica of a master."""
        for first, _, *nodes in await self.ask(master, "CLUSTER", "SLOTS"):
            del first
            if int(nodes[0][1]) == master.port and len(nodes) > 1:
                return next(server for server in self.servers if server.port == int(nodes[1][1]))
        raise LookupError(f"the node at {master.port} has no replica")

    async def until(self, condition: Callable[[], Any], deadline_s: float = 30.0) -> None:
        """Wait until a question to the nodes, which may fail meanwhile, is answered with yes."""
        end = time.monotonic() + deadline_s
        while True:
            with suppress(redis.exceptions.RedisError, OSError, LookupError, StopIteration):
                if await condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError("the nodes do not agree in time")
            await asyncio.sleep(_POLL_S)

    async def is_whole(self) -> bool:
        """Return whether every node takes the cluster for whole, and every replica is in step."""
        for server in self.servers:
            if b"cluster_state:ok" not in await self.ask(server, "CLUSTER", "INFO"):
                return False
            info = await self.ask(server, "INFO", "replication")
            if info["role"] == "slave" and info["master_link_status"] != "up":
                return False
        return True

    async def knows(self, server: RedisServer) -> int:
        """Return the number of nodes that a node knows."""
        found = await self.ask(server, "CLUSTER", "INFO")
        line = next(part for part in found.decode().splitlines() if part.startswith("cluster_known_nodes:"))
        return int(line.partition(":")[2])


@asynccontextmanager
async def start_redis_cluster(
    directory: Path, *, masters: int = 3, replicas: bool = False, program: Path | None = None
) -> AsyncIterator[RedisCluster]:
    """Start masters in ``directory`` that share the slots, each with a replica if asked to; stop them at the end."""
    ports = free_ports()
    async with AsyncExitStack() as opened:
        servers: list[RedisServer] = []
        buses: list[int] = []
        for number in range(2 * masters if replicas else masters):
            buses.append(next(ports))
            options = {
                "requirepass": PASSWORD,
                "masterauth": PASSWORD,
                "cluster-enabled": "yes",
                "cluster-port": str(buses[-1]),
                "cluster-node-timeout": str(int(NODE_TIMEOUT_S * 1000)),
                "cluster-replica-validity-factor": "0",
                "cluster-require-full-coverage": "no",
                "repl-diskless-sync-delay": "0",
            }
            servers.append(await start_redis(directory / f"node-{number}", options=options, program=program, ports=ports))
            opened.push_async_callback(servers[-1].stop)
        cluster = RedisCluster(servers)
        for number, server in enumerate(servers[:masters]):
            first, last = number * _SLOTS // masters, (number + 1) * _SLOTS // masters - 1
            await cluster.ask(server, "CLUSTER", "ADDSLOTSRANGE", first, last)
            # Different epochs from the start, or the nodes would have to settle a conflict first.
            await cluster.ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server, bus in zip(servers[1:], buses[1:], strict=True):
            await cluster.ask(servers[0], "CLUSTER", "MEET", _HOST, server.port, bus)

        async def acquainted() -> bool:
            return all([await cluster.knows(server) == len(servers) for server in servers])

        await cluster.until(acquainted)
        for number, server in enumerate(servers[masters:]):
            await cluster.ask(server, "CLUSTER", "REPLICATE", await cluster.id_of(servers[number]))
        await cluster.until(cluster.is_whole)
        yield cluster

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
from tests.harness.cluster_ways import Ways, node_user, open_ways, service_user
from tests.harness.proxy import Target

PASSWORD = "of-the-cluster"
NODE_TIMEOUT_S = 1.5
"""How long a master must be silent before its replica takes over."""
_HOST = "127.0.0.1"
_SLOTS = 16_384
_POLL_S = 0.05
_OPTIONS = {
    "requirepass": PASSWORD,
    "masterauth": PASSWORD,
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(int(NODE_TIMEOUT_S * 1000)),
    "cluster-replica-validity-factor": "0",
    "cluster-require-full-coverage": "no",
    "repl-diskless-sync-delay": "0",
}


class RedisCluster:
    """Nodes, running; ``servers`` begin with the first masters. ``start_redis_cluster`` makes it.

    Args:
        servers: the nodes.
        masters: the number of nodes that have slots.
        ways: the proxies by which clients and nodes reach the nodes, if there are any.
    """

    def __init__(self, servers: Sequence[RedisServer], masters: int, ways: Ways | None = None) -> None:
        self.servers = servers
        self._masters = masters
        self._ways = ways

    @property
    def ways(self) -> Ways:
        """The proxies. Raises ``LookupError`` if there are none."""
        if self._ways is None:
            raise LookupError("this cluster was started without proxies")
        return self._ways

    @property
    def url(self) -> str:
        """The URL of the first node."""
        return self.servers[0].url

    def url_of(self, service: int) -> str:
        """Return the URL of the first node for the user of a service, whose ways can be cut."""
        return f"redis://{service_user(service)}:{PASSWORD}@{_HOST}:{self.ports[0]}/0"

    @property
    def ports(self) -> Sequence[int]:
        """The port that each node announces."""
        return [server.port for server in self.servers] if self._ways is None else [proxy.port for proxy in self._ways.ports]

    def number_of(self, server: RedisServer) -> int:
        """Return the number of a node."""
        return self.servers.index(server)

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

    async def owners(self, asked: RedisServer | None = None) -> Callable[[int], RedisServer]:
        """Return a function that finds the master of a slot, as one node says now, or raises ``LookupError``."""
        ranges = [(first, last, self._at(master)) for first, last, master, *_ in await self._slots(asked or self.servers[0])]

        def owner(slot: int) -> RedisServer:
            for first, last, server in ranges:
                if first <= slot <= last:
                    return server
            raise LookupError(f"nobody has slot {slot}")

        return owner

    async def owner(self, slot: int, asked: RedisServer | None = None) -> RedisServer:
        """Return the master that has a slot, as one node says."""
        return (await self.owners(asked))(slot)

    async def another(self, slot: int) -> RedisServer:
        """Return a master that has not this slot."""
        owner = await self.owner(slot)
        for _, _, master, *_ in await self._slots(owner):
            if self._at(master) is not owner:
                return self._at(master)
        raise LookupError("there is one master only")

    async def _slots(self, asked: RedisServer) -> Any:
        return await self.ask(asked, "CLUSTER", "SLOTS")

    def _at(self, address: Sequence[Any]) -> RedisServer:
        return self.servers[self.ports.index(int(address[1]))]

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

        async def tell(server: RedisServer) -> None:
            with suppress(redis.exceptions.ResponseError, redis.exceptions.ConnectionError):  # a replica, or a dead node
                await self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", name)

        await tell(target)
        await tell(source)
        await asyncio.gather(*(tell(server) for server in self.servers if server not in (target, source)))

    async def move(self, slot: int, target: RedisServer) -> None:
        """Move a slot key by key, as ``redis-cli --cluster reshard`` does."""
        await self.end_move(slot, await self.begin_move(slot, target), target)

    async def move_at_once(self, slot: int, target: RedisServer) -> None:
        """Move a slot as a whole, as Valkey 9 can.

        The target must have no keys of the slot that were left there: Valkey 9.1.2 then ends with a failed assertion.

        Raises:
            RuntimeError: the nodes gave the move up.
        """
        source = await self.owner(slot)
        await self.ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", await self.id_of(target))

        async def is_over() -> bool:
            last = (await self.ask(source, "CLUSTER", "GETSLOTMIGRATIONS"))[0]
            if last[b"state"] in {b"failed", b"cancelled"}:
                raise RuntimeError(f"slot {slot} was not moved: {last[b'message'].decode()}")
            return await self.owner(slot, target) is target and await self.owner(slot, source) is target

        await self.until(is_over)

    async def replica_of(self, master: RedisServer) -> RedisServer:
        """Return a replica of a master."""
        for _, _, *nodes in await self._slots(master):
            if self._at(nodes[0]) is master and len(nodes) > 1:
                return self._at(nodes[1])
        raise LookupError(f"the node at {master.port} has no replica")

    async def until(self, condition: Callable[[], Any], deadline_s: float = 30.0) -> None:
        """Wait until a question to the nodes, which may fail meanwhile, is answered with yes."""
        end = time.monotonic() + deadline_s
        while True:
            with suppress(redis.exceptions.RedisError, OSError, LookupError, ValueError):
                if await condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError("the nodes do not agree in time")
            await asyncio.sleep(_POLL_S)

    async def is_whole(self) -> bool:
        """Return whether every node takes the cluster for whole, and all but the masters are replicas that are in step."""
        masters = 0
        for server in self.servers:
            if b"cluster_state:ok" not in await self.ask(server, "CLUSTER", "INFO"):
                return False
            info = await self.ask(server, "INFO", "replication")
            masters += info["role"] == "master"
            if info["role"] == "slave" and info["master_link_status"] != "up":
                return False
        return masters == self._masters

    async def knows(self, server: RedisServer) -> int:
        """Return the number of nodes that a node knows."""
        found = await self.ask(server, "CLUSTER", "INFO")
        line = next(part for part in found.decode().splitlines() if part.startswith("cluster_known_nodes:"))
        return int(line.partition(":")[2])


@asynccontextmanager
async def start_redis_cluster(
    directory: Path, *, masters: int = 3, replicas: bool = False, divisible: bool = False, program: Path | None = None
) -> AsyncIterator[RedisCluster]:
    """Start masters in ``directory`` that share the slots, each with a replica if asked to; stop them at the end.

    With ``divisible`` a proxy is on every way to a node.
    """
    count = 2 * masters if replicas else masters
    async with AsyncExitStack() as opened:
        ways = await opened.enter_async_context(open_ways(count)) if divisible else None
        ports = free_ports()
        servers: list[RedisServer] = []
        buses: list[int] = []
        for number in range(count):
            bus = next(ports)
            options = _OPTIONS | {"cluster-port": str(bus)} | ({} if ways is None else _announced(ways, number))
            servers.append(await start_redis(directory / f"node-{number}", options=options, program=program, ports=ports))
            opened.push_async_callback(servers[-1].stop)
            if ways is not None:
                ways.ports[number].target, ways.buses[number].target = Target(port=servers[-1].port), Target(port=bus)
                bus = ways.buses[number].port
            buses.append(bus)
        cluster = RedisCluster(servers, masters, ways)
        await _acquaint(cluster, servers[:masters], buses)
        for number, server in enumerate(servers[masters:]):
            await cluster.ask(server, "CLUSTER", "REPLICATE", await cluster.id_of(servers[number]))
        await cluster.until(cluster.is_whole)
        if ways is not None:
            ways.names.update({await cluster.id_of(server): node_user(number) for number, server in enumerate(servers)})
        yield cluster


def _announced(ways: Ways, number: int) -> dict[str, str]:
    """Return the options of a node that is reached by its proxies."""
    return {
        "cluster-announce-ip": _HOST,
        "cluster-announce-port": str(ways.ports[number].port),
        "cluster-announce-bus-port": str(ways.buses[number].port),
        "masteruser": node_user(number),
        **{f"user {user}": f"on >{PASSWORD} ~* &* +@all" for user in ways.users},
    }


async def _acquaint(cluster: RedisCluster, masters: Sequence[RedisServer], buses: Sequence[int]) -> None:
    """Divide the slots among the masters, and wait until every node knows every other one."""
    for number, server in enumerate(masters):
        first, last = number * _SLOTS // len(masters), (number + 1) * _SLOTS // len(masters) - 1
        await cluster.ask(server, "CLUSTER", "ADDSLOTSRANGE", first, last)
        # Different epochs from the start, or the nodes would have to settle a conflict first.
        await cluster.ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for port, bus in list(zip(cluster.ports, buses, strict=True))[1:]:
        await cluster.ask(cluster.servers[0], "CLUSTER", "MEET", _HOST, port, bus)

    async def acquainted() -> bool:
        return all([await cluster.knows(server) == len(cluster.servers) for server in cluster.servers])

    await cluster.until(acquainted)

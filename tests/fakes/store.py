"""The store's ports over in-memory Redis servers."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from app.cache.errors import LeasesInDoubt, StoreUnavailable
from app.cache.ports import AuditStore, Begun, Publication, Published, Reading, Repairs, Store, Watermark
from tests.fakes.redis import Lifetimes, RedisError, RedisServer
from tests.fakes.wire import Disconnected, Wire

Reply = TypeVar("Reply")
TOKENS = count(1)
"""Numbers for the tokens of claims: no two cycles have the same."""
_incarnations = count(1)
Route = Callable[[], RedisServer]
"""The server that a new connection reaches now."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to one run of one server, whose identity was asked for when it was opened."""

    server: RedisServer
    start: int
    identity: str

    @classmethod
    def open(cls, server: RedisServer) -> "Connection":
        """Connect; runs on the server."""
        if server.down:
            raise Disconnected(f"{server.name} refuses connections")
        return cls(server, server.starts, server.identity)

    def run(self, command: Callable[[RedisServer, str], Reply], namespace: str = "") -> Reply:
        """Run a command of a namespace, unless the server was started anew or took over other data since."""
        if self.server.starts != self.start:
            raise Disconnected(f"{self.server.name} was restarted")
        self.server.namespace = namespace
        reply = command(self.server, self.identity)
        if self.server.identity != self.identity:
            raise Disconnected(f"{self.server.name} has taken over other data")
        return reply


class MemoryStore(Store):
    """The ``Store`` port. Connections are pooled; a connection without a definite reply is never used again."""

    def __init__(
        self,
        route: Route,
        wire: Wire,
        chance: random.Random,
        lifetimes: Lifetimes | None = None,
        namespace: str = "",
    ) -> None:
        self._namespace = namespace
        self._route = route
        self._wire = wire
        self._chance = chance
        self._lifetimes = lifetimes or Lifetimes()
        self._free: list[Connection] = []

    async def read(self, keys: Sequence[str], lease: Sequence[str] = ()) -> Reading:
        if not lease:
            return await self._run("read", lambda server, identity: server.read(identity, keys))
        tokens, life_s = self._tokens(lease), self._lifetimes.lease_s
        return await self._run("read", lambda server, identity: server.read_and_lease(identity, keys, tokens, life_s), tokens)

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        tokens, life_s = self._tokens(keys), self._lifetimes.lease_s
        return await self._run("lease", lambda server, identity: server.lease(identity, tokens, life_s), tokens)

    async def publish(self, publications: Sequence[Publication]) -> Published:
        return await self._run("publish", lambda server, identity: server.publish(identity, publications, self._lifetimes))

    async def release(self, tokens: dict[str, str]) -> None:
        await self._run("release", lambda server, _: server.release(tokens))

    async def drop(self, key: str) -> None:
        await self._run("drop", lambda server, _: server.drop(key))

    def _tokens(self, keys: Sequence[str]) -> dict[str, str]:
        return {key: f"{self._chance.getrandbits(64):016x}" for key in keys}

    async def _run(
        self, name: str, command: Callable[[RedisServer, str], Reply], leases: dict[str, str] | None = None
    ) -> Reply:
        sent = False
        try:
            connection = self._free.pop() if self._free else await connect(self._route, self._wire)
            sent = True
            reply = await self._wire.call(name, lambda: connection.run(command, self._namespace))
        except (Disconnected, RedisError) as error:
            raise lost_call(name, error, leases if sent else None) from error
        self._free.append(connection)
        return reply


def lost_call(name: str, error: Exception, leases: dict[str, str] | None) -> StoreUnavailable:
    """Return the error of a call without a definite answer, which may have taken these leases."""
    return LeasesInDoubt(f"{name}: {error}", leases) if leases else StoreUnavailable(f"{name}: {error}")


class MemoryAuditStore(AuditStore):
    """The ``AuditStore`` port: one connection, which the first failure ends."""

    def __init__(self, connection: Connection, route: Route, wire: Wire, namespace: str = "") -> None:
        self._connection: Connection | None = connection
        self._namespace = namespace
        self._route = route
        self._wire = wire
        self._token = f"{wire.client} {next(TOKENS)}"

    async def begin(self, claim_ms: int) -> Begun:
        return await self._run("begin", lambda server, identity: server.begin(identity, self._token, claim_ms / 1_000))

    async def give_claim_back(self) -> None:
        """Let another instance audit this interval, if the connection is good."""
        with suppress(StoreUnavailable):
            await self._run("give back", lambda server, _: server.give_back(self._token))

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        return await self._run("verify", lambda server, _: server.verify(epoch, rows))

    async def distrust(self, mark: Watermark | None) -> None:
        await self._run("distrust", lambda server, _: server.mark(mark))
        await self._run("distrust, second command", lambda server, _: server.take_fence())

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        proven = in_its_incarnation(begun, proven)
        return await self._run("trust", lambda server, _: server.trust(begun, proven, fence_ttl_ms / 1_000))

    async def _run(self, name: str, command: Callable[[RedisServer, str], Reply]) -> Reply:
        connection, self._connection = self._connection, None
        if connection is None:
            raise StoreUnavailable(f"{name}: this audit's connection is lost")
        try:
            reply = await self._wire.call(name, lambda: connection.run(command, self._namespace))
        except (Disconnected, RedisError) as error:
            raise StoreUnavailable(f"{name}: {error}") from error
        self._connection = connection
        return reply


def in_its_incarnation(begun: Begun, proven: Watermark) -> Watermark:
    """Return the watermark to set: it keeps the incarnation of one that counts, and else begins a new one."""
    known = begun.watermark.incarnation if begun.watermark and begun.counts else ""
    return replace(proven, incarnation=known or f"{next(_incarnations):016d}")


@asynccontextmanager
async def open_audit_store(
    route: Route, wire: Wire, kind: type[MemoryAuditStore] = MemoryAuditStore, namespace: str = ""
) -> AsyncIterator[MemoryAuditStore]:
    """Open the store for one audit cycle."""
    try:
        connection = await connect(route, wire)
    except (Disconnected, RedisError) as error:
        raise StoreUnavailable(f"connect: {error}") from error
    store = kind(connection, route, wire, namespace)
    try:
        yield store
    except Exception:
        await store.give_claim_back()
        raise


async def connect(route: Route, wire: Wire) -> Connection:
    """Open a connection to wherever new connections go now."""
    return await wire.call("connect", lambda: Connection.open(route()))

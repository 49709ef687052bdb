"""A TCP proxy between one service and one server. It can lose, reset, hold, delay and refuse.

It behaves as networks do: bytes of one connection arrive in order or not at all. Commands that were held arrive late, even if
their sender has closed the connection meanwhile. If replies were swallowed, their connection ends when the fault ends, because
a TCP stream has no gaps.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

HOST = "127.0.0.1"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""``SO_LINGER``, on and 0 s: closing sends RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address: a Unix socket, or a port of a host."""

    path: Path | None = None
    port: int = 0
    host: str = HOST

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Open a connection. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(factory, str(self.path))
        else:
            await loop.create_connection(factory, self.host, self.port)


class Watch(Protocol):
    """Sees what passes over one connection. An answer of false breaks the connection, and what was seen does not pass."""

    def sent(self, data: bytes) -> bool:
        """Bytes of the client."""

    def answered(self, data: bytes) -> bool:
        """Bytes of the server."""


class Proxy:
    """A proxy on a port of its own, which stays the same. Set ``target`` to send new connections to another server.

    ``watch`` makes a watch for each connection.
    """

    def __init__(self, target: Target, watch: Callable[[], Watch] | None = None) -> None:
        self.target = target
        self.watch = watch
        self.port = 0
        self.delay_s = 0.0
        self.held = False
        self.swallowing = False
        self.between_s = 0.0
        """Shortest time between two connections that are opened to the target. Later ones wait."""
        self.links: set[_Link] = set()
        self.accepted = 0
        """Number of connections that were opened to this proxy since its start."""
        self._server: asyncio.Server | None = None
        self._next_at = 0.0

    async def open(self) -> None:
        """Listen. It does nothing if the proxy listens already."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._accept, HOST, self.port, reuse_address=True)
            self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Break all connections and refuse new ones until ``heal``."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Break all connections with FIN; new ones are accepted."""
        for link in list(self.links):
            link.abort()

    def reset(self) -> None:
        """Break all connections, idle and busy ones, with RST, as a firewall or a server that was replaced would do."""
        for link in list(self.links):
            link.reset()

    def delay(self, seconds: float) -> None:
        """Deliver everything later, in both directions, until ``heal``."""
        self.delay_s = seconds

    def hold(self) -> None:
        """Deliver nothing until ``heal``, then everything."""
        self.held = True

    def swallow(self) -> None:
        """Pass commands on, but no replies, until ``heal``."""
        self.swallowing = True

    def turn_s(self) -> float:
        """Return the seconds until the next connection may be opened to the target, and reserve that moment."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_at)
        self._next_at = at + self.between_s
        return at - now

    async def heal(self) -> None:
        """End every fault."""
        self.delay_s, self.held, self.swallowing = 0.0, False, False
        for link in list(self.links):
            link.heal()
        await self.open()

    async def aclose(self) -> None:
        """Stop the proxy. It cannot be started again."""
        links = list(self.links)
        self.refuse()
        for link in links:
            await link.ended()

    def _accept(self) -> asyncio.Protocol:
        link = _Link(self)
        self.accepted += 1
        self.links.add(link)
        return link.client

    def forget(self, link: "_Link") -> None:
        """Remove a link that has ended on both sides."""
        self.links.discard(link)


class _Way:
    """One direction of a connection."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._queue: deque[tuple[float, bytes]] = deque()
        self._out: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def attach(self, out: asyncio.Transport) -> None:
        self._out = out
        self.pump()

    def feed(self, data: bytes) -> None:
        due = asyncio.get_running_loop().time() + self._proxy.delay_s
        self._queue.append((max(due, self._queue[-1][0]) if self._queue else due, data))
        self.pump()

    def end(self) -> None:
        self._ended = True
        self.pump()

    def drop(self) -> None:
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pump(self) -> None:
        out = self._out
        if out is None or self._proxy.held:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._queue and self._queue[0][0] <= now:
            _, data = self._queue.popleft()
            if not out.is_closing():
                out.write(data)
        if self._queue:
            if self._timer is None:
                self._timer = loop.call_at(self._queue[0][0], self._wake)
        elif self._ended and not out.is_closing():
            out.close()

    def hurry(self) -> None:
        """Deliver everything that waits, because the fault is over."""
        now = asyncio.get_running_loop().time()
        self._queue = deque((min(due, now), data) for due, data in self._queue)
        self.pump()

    def _wake(self) -> None:
        self._timer = None
        self.pump()


class _Link:
    """A client's connection and its connection to the server."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._watch = proxy.watch() if proxy.watch is not None else None
        self._to_server = _Way(proxy)
        self._to_client = _Way(proxy)
        self.client = _Side(self._client_made, self._command, self._client_lost)
        self._server = _Side(self._server_made, self._reply, self._server_lost)
        self._opening: asyncio.Task[None] | None = None
        self.lossy = False
        self._aborted = False

    def abort(self) -> None:
        self._aborted = True
        for way in (self._to_server, self._to_client):
            way.drop()
        for side in (self.client, self._server):
            if side.transport is not None:
                side.transport.abort()
        self._proxy.forget(self)

    def reset(self) -> None:
        for side in (self.client, self._server):
            # A server on a Unix socket is told by the end of the stream: there is no RST there.
            if side.transport is not None and not side.transport.is_closing():
                bare = side.transport.get_extra_info("socket")
                bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    async def ended(self) -> None:
        """Wait until an aborted link has closed its sockets."""
        if self._opening is not None:
            await self._opening
        while any(side.transport is not None and not side.lost for side in (self.client, self._server)):
            await asyncio.sleep(0)

    def heal(self) -> None:
        if self.lossy:
            self.abort()
            return
        self._to_server.hurry()
        self._to_client.hurry()

    def _client_made(self, transport: asyncio.Transport) -> None:
        self._to_client.attach(transport)
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        if pause_s := self._proxy.turn_s():
            await asyncio.sleep(pause_s)
        if self._aborted or self.client.lost:
            self.abort()
            return
        try:
            await self._proxy.target.connect(lambda: self._server)
        except OSError:
            self.abort()

    def _server_made(self, transport: asyncio.Transport) -> None:
        if self._aborted:
            transport.abort()
        else:
            self._to_server.attach(transport)

    def _command(self, data: bytes) -> None:
        if self._watch is not None and not self._watch.sent(data):
            self.abort()
        else:
            self._to_server.feed(data)

    def _reply(self, data: bytes) -> None:
        if self._watch is not None and not self._watch.answered(data):
            self.abort()
        elif self._proxy.swallowing:
            self.lossy = True
        else:
            self._to_client.feed(data)

    def _client_lost(self) -> None:
        self._to_client.drop()
        self._to_server.end()  # what it sent before is still on its way
        self._forget_if_over()

    def _server_lost(self) -> None:
        self._to_server.drop()
        self._to_client.end()
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self.client.lost and self._server.lost:
            self._proxy.forget(self)


class _Side(asyncio.Protocol):
    def __init__(
        self, made: Callable[[asyncio.Transport], None], received: Callable[[bytes], None], lost: Callable[[], None]
    ) -> None:
        self._made, self._received, self._lost = made, received, lost
        self.transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._made(self.transport)

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.lost = True
        self._lost()

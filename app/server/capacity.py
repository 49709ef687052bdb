"""The limits of number: connections of a process, and bytes of bodies under way.

A connection has at most one request under way, so that the limit of connections is one of requests, too. A lower limit of
requests would help those who send bodies slowly: they would keep others out with fewer connections.
"""

import logging
import random
import resource
import socket
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from app.api.metrics import ConnectionStats
from app.server.refusal import turn_away
from app.server.timeouts import Patience, Waiting
from app.server.tls import Handshakes
from app.settings import Settings
from app.sparse_log import SparseLog

FREE_BODY_BYTES = 16_384
"""Bytes of each body that do not count towards the limit of all bodies. The number of connections bounds them already, and
small writes are therefore never refused because of large ones."""
_SHARE_OF_DESCRIPTORS = 0.75
"""The rest is for PostgreSQL, Redis, files, and connections that were accepted or closed a moment ago."""
_SEARCHED_PER_CLOSED = 16
"""Connections that a search for idle ones may look at for each one that is closed."""
_log = logging.getLogger("larder")
_full_log = SparseLog(_log)


def connection_limit(settings: Settings, descriptors: int | None = None) -> int:
    """Return how many connections a process accepts: as many as the settings allow and its file descriptors permit.

    Args:
        settings: the settings.
        descriptors: the limit of open files; that of this process if it is left out.
    """
    if descriptors is None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return settings.connection_limit
    permitted = max(1, int(descriptors * _SHARE_OF_DESCRIPTORS) - settings.database_connections)
    if permitted < settings.connection_limit:
        _log.info(
            "at most %d connections are accepted, because a process may open %d files; raise that limit (ulimit -n) for more",
            permitted,
            descriptors,
        )
    return min(settings.connection_limit, permitted)


class Closeable(Protocol):
    """A connection that can be closed to make room for another."""

    patience: Patience

    def idle(self) -> Waiting | None:
        """Return its wait for a request of which no byte has come, or ``None`` if a request is under way."""

    def make_room(self) -> None:
        """Close it."""


class Places:
    """The places for connections. When all are taken, the connection that has been idle for longest is closed for a new one.

    If none is idle, a TLS handshake that takes long is ended.

    Args:
        most: the number of places.
        connections: the connections that there are.
        stats: where refusals are counted.
        handshakes: the TLS handshakes under way.
    """

    def __init__(
        self, most: int, connections: Collection[Closeable], stats: Callable[[], ConnectionStats], handshakes: Handshakes
    ) -> None:
        self._most = most
        self._connections = connections
        self._stats = stats
        self._handshakes = handshakes
        self._idle: deque[tuple[Closeable, Waiting]] = deque()
        self._to_close = 0

    def admit(self, connection: socket.socket, arriving: int) -> bool:
        """Return whether there is a place for a connection that was just accepted. Otherwise answer it with 503 and close it.

        Args:
            connection: the connection.
            arriving: number of accepted connections that are not among the connections yet.
        """
        if len(self._connections) + arriving < self._most:
            return True
        if self._close_an_idle_one() or self._handshakes.end_oldest():
            self._stats().closed["room"] += 1
            return True
        self._stats().closed["full"] += 1
        _full_log.info("a connection was refused, because all %d places for connections are in use", self._most)
        turn_away(connection, b"%032x" % random.getrandbits(128))
        return False

    def look_again(self) -> None:
        """Let the next connection without a place search for idle ones."""
        self._idle.clear()
        self._to_close = 0

    def _close_an_idle_one(self) -> bool:
        # A search looks at all connections. It is repeated only when the last one has made room for a good part of them.
        if not self._idle and self._to_close <= 0:
            self._to_close = max(1, len(self._connections) // _SEARCHED_PER_CLOSED)
            idle = [(connection, wait) for connection in self._connections if (wait := connection.idle()) is not None]
            self._idle.extend(sorted(idle, key=lambda found: found[0].patience.since(found[1])))
        while self._idle:
            connection, before = self._idle.popleft()
            wait = connection.idle() if connection in self._connections else None
            if wait is not None and wait.subject is before.subject:
                connection.make_room()
                self._to_close -= 1
                return True
        return False


class HeldBody:
    """The bytes of a connection's bodies that are in memory because their requests are not answered yet."""

    __slots__ = ("_limit", "_stats", "received", "size")

    def __init__(self, stats: ConnectionStats, limit: int) -> None:
        self._stats = stats
        self._limit = limit
        self.size = 0
        """Bytes that count towards the limit."""
        self.received = 0
        """Bytes of the present request's body."""

    def begin(self) -> None:
        """Begin another request."""
        self.received = 0

    def add(self, size: int, *, kept: bool) -> bool:
        """Count a part of the present request's body. Return ``False`` if there is no room for it."""
        self.received += size
        more = min(size, self.received - FREE_BODY_BYTES)
        if kept and more > 0:
            if self._stats.large_body_bytes + more > self._limit:
                return False
            self._stats.large_body_bytes += more
            self.size += more
        return True

    def release(self, *, but_present: bool = False) -> None:
        """Forget the bytes of answered requests. Those of the present one are kept if it is not answered."""
        kept = max(0, self.received - FREE_BODY_BYTES) if but_present else 0
        self._stats.large_body_bytes -= self.size - kept
        self.size = kept

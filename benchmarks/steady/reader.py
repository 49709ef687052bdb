"""Reads at a constant rate, each of another path, by a client that costs little beside the service.

h2load plays one list of paths on every connection, which is of no use for a cold cache. Here each read has its own path. It is
due at its moment and sent on the first connection that is free, so a service that does not keep up is asked as fast as it
answers, and its reads wait longer and longer from when they were due.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from typing_extensions import override

from benchmarks.steady.pace import clock
from tests.harness.proxy import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_HIT = b"\r\ncache-status: larder; hit\r\n"
_TICK_S = 0.002


@dataclass(slots=True)
class Second:
    """What was answered in one second: latencies from when a read was due and from when it was sent, in seconds."""

    hits: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    from_due_s: list[float] = field(default_factory=list)
    from_sent_s: list[float] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """Number of answers."""
        return len(self.from_due_s)


class Reader:
    """Sends reads of the paths that ``path`` gives, ``rate`` a second, until it is stopped."""

    def __init__(self, port: int, path: Callable[[], str], rate: float) -> None:
        self._port = port
        self._path = path
        self._rate = rate
        self._due: deque[float] = deque()
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []
        self._second = Second()

    @property
    def waiting(self) -> int:
        """Number of reads that are due and not sent."""
        return len(self._due)

    def take(self) -> Second:
        """Return what was answered since the last call."""
        found, self._second = self._second, Second()
        return found

    async def connect(self, connections: int) -> None:
        """Open the connections. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(lambda: _Connection(self._answered), HOST, self._port)
            self._idle.append(connection)
            self._all.append(connection)

    async def send(self) -> None:
        """Send until cancelled."""
        start, number = clock(), 0
        while True:
            while (due := start + number / self._rate) <= clock():
                self._due.append(due)
                number += 1
            while self._due and self._idle:
                self._ask(self._idle.pop())
            await asyncio.sleep(_TICK_S)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.close()

    def _ask(self, connection: "_Connection") -> None:
        request = f"GET {self._path()} HTTP/1.1\r\nhost: {HOST}:{self._port}\r\n\r\n"
        connection.ask(request.encode(), self._due.popleft())

    def _answered(self, connection: "_Connection", head: bytes) -> None:
        now, second = clock(), self._second
        second.from_due_s.append(now - connection.due)
        second.from_sent_s.append(now - connection.sent)
        second.statuses[int(head[9:12])] += 1
        second.hits += _HIT in head
        if self._due:
            self._ask(connection)
        else:
            self._idle.append(connection)


class _Connection(asyncio.Protocol):
    """One connection, with at most one read under way."""

    def __init__(self, answered: Callable[["_Connection", bytes], None]) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.due = self.sent = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        if len(self._buffer) < end + 4 + (int(length[1]) if length else 0):
            return
        head, self._buffer = self._buffer[: end + 2], b""
        self._answered(self, head)

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        self.due, self.sent = due, clock()
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def reading(port: int, path: Callable[[], str], rate: float, connections: int) -> AsyncIterator[Reader]:
    """Send reads inside of this context."""
    reader = Reader(port, path, rate)
    await reader.connect(connections)
    sending = asyncio.create_task(reader.send())
    try:
        yield reader
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        reader.close()

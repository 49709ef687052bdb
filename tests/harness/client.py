"""An HTTP client for the outages: it has cheap keep-alive connections and reports exactly whether a request was sent.

A general client would work, too, but it would use much of the time of two cores for each request.
"""

import asyncio
import re
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast

from tests.harness.proxy import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_BODILESS = (204, 304)


class NoAnswerError(Exception):
    """The request got no answer. ``sent`` is false if the service certainly never received it."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its status, its raw head, and its body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> str:
        """Return a header by its lower-case name; empty if it is missing."""
        start = self.head.lower().find(b"\r\n" + name + b": ")
        if start < 0:
            return ""
        start += len(name) + 4
        end = self.head.find(b"\r\n", start)
        return self.head[start : end if end >= 0 else None].decode("latin-1")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[Answer] | None = None

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    async def ask(self, request: bytes) -> Answer:
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        status = int(head[9:12])
        found = None if status in _BODILESS else _LENGTH.search(head)
        total = end + 4 + (int(found[1]) if found else 0)
        if len(self._buffer) < total:
            return
        answer = Answer(status, head, self._buffer[end + 4 : total])
        self._buffer = self._buffer[total:]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(error or "closed by the service")))


class Endpoint:
    """One service's address, with its idle connections."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._tls = tls
        self._idle: deque[_Connection] = deque()

    async def request(self, method: str, path: str, *, headers: str = "", body: bytes = b"", timeout_s: float = 15.0) -> Answer:
        """Send a request; ``headers`` are whole lines, each with its line end.

        Raises:
            NoAnswerError: no connection, the connection broke, or the deadline passed.
        """
        if body:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        raw = f"{method} {path} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\n{headers}\r\n".encode() + body
        connection = await self._connection()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await connection.ask(raw)
        except BaseException as error:
            self._drop(connection)
            if isinstance(error, OSError | TimeoutError):
                raise NoAnswerError(str(error) or "no answer in time", sent=True) from error
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._drop(self._idle.pop())

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        try:
            async with asyncio.timeout(5):
                _, fresh = await asyncio.get_running_loop().create_connection(_Connection, HOST, self.port, ssl=self._tls)
        except (OSError, TimeoutError) as error:
            raise NoAnswerError(str(error) or "no connection in time", sent=False) from error
        return fresh

    def _drop(self, connection: _Connection) -> None:
        if connection.transport is not None:
            connection.transport.abort()

"""TCP proxies in front of real servers that count what passes, hold back replies, and cut a connection at a statement."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, urlsplit

from psycopg.conninfo import conninfo_to_dict

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Cut = Literal["before it is sent", "when its answer comes"]


@dataclass(slots=True)
class Tap:
    """What passed, in the order in which the proxy saw it; several proxies may share one."""

    seen: list[str] = field(default_factory=list)
    round_trips: int = 0
    replies: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: replies are held back, commands pass."""
    cut: Cut | None = None
    """What happens to the next COMMIT."""
    hang_at: str = ""
    """From the first statement with this text on, no reply comes through any more."""

    def __post_init__(self) -> None:
        self.replies.set()

    def clear(self) -> None:
        """Forget what passed."""
        self.seen.clear()
        self.round_trips = 0


class _Broken(Exception):
    """The proxy ends the connection here."""


class _RedisParser:
    """Commands out of a client's bytes."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> list[list[bytes]]:
        self._bytes += data
        commands = []
        while (parsed := self._one()) is not None:
            command, rest = parsed
            commands.append(command)
            self._bytes = rest
        return commands

    def _one(self) -> tuple[list[bytes], bytes] | None:
        head, found, rest = self._bytes.partition(b"\r\n")
        if not found:
            return None
        words = []
        for _ in range(int(head[1:])):
            size, found, rest = rest.partition(b"\r\n")
            length = int(size[1:] or b"0") if found else 0
            if not found or len(rest) < length + 2:
                return None
            words.append(rest[:length])
            rest = rest[length + 2 :]
        return words, rest


class _PostgresParser:
    """Executed statements out of a client's bytes."""

    def __init__(self) -> None:
        self._bytes = b""
        self._started = False
        self._prepared: dict[bytes, str] = {}
        self._portal = ""

    def feed(self, data: bytes) -> list[tuple[bytes, str]]:
        """Each message's type, and the text of the statement if it executes one."""
        self._bytes += data
        messages: list[tuple[bytes, str]] = []
        while True:
            skip = 1 if self._started else 0
            if len(self._bytes) < skip + 4:
                return messages
            [size] = struct.unpack_from("!I", self._bytes, skip)
            if len(self._bytes) < skip + size:
                return messages
            kind, body = self._bytes[:skip], self._bytes[skip + 4 : skip + size]
            self._bytes = self._bytes[skip + size :]
            self._started = True
            messages.append((kind, self._text(kind, body)))

    def _text(self, kind: bytes, body: bytes) -> str:
        if kind == b"Q":
            return body.rstrip(b"\0").decode()
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._prepared[name] = text.decode()
        if kind == b"B":
            self._portal = self._prepared[body.split(b"\0", 2)[1]]
        return self._portal if kind == b"E" else ""


def _watch_redis(tap: Tap) -> Callable[[bytes], bool]:
    parser = _RedisParser()

    def watch(data: bytes) -> bool:
        for command in parser.feed(data):
            name = command[0].decode().upper()
            tap.seen.append(name)
            tap.round_trips += name == "ECHO"  # each of Larder's calls ends with one
        return True

    return watch


def _watch_postgres(tap: Tap) -> Callable[[bytes], bool]:
    parser = _PostgresParser()

    def watch(data: bytes) -> bool:
        committing = False
        for kind, text in parser.feed(data):
            if kind in (b"Q", b"E"):
                tap.seen.append(text)
                if tap.hang_at and tap.hang_at in text:
                    tap.replies.clear()
                committing = committing or text == "COMMIT"
            tap.round_trips += kind in (b"Q", b"S")
        if committing and tap.cut == "before it is sent":
            tap.cut = None
            return False
        return True

    return watch


@asynccontextmanager
async def redis_proxy(url: str, tap: Tap) -> AsyncIterator[str]:
    """The URL of a proxy to the Redis at ``url``."""
    parts = urlsplit(url)

    async def connect() -> Streams:
        if parts.scheme == "unix":
            return await asyncio.open_unix_connection(parts.path)
        return await asyncio.open_connection(parts.hostname, parts.port)

    async with _proxy(connect, lambda: _watch_redis(tap), tap) as port:
        login = f":{parts.password}@" if parts.password else ""
        yield f"redis://{login}127.0.0.1:{port}{'/0' if parts.scheme == 'unix' else parts.path}"


@asynccontextmanager
async def postgres_proxy(url: str, tap: Tap) -> AsyncIterator[str]:
    """The URL of a proxy to the PostgreSQL at ``url``, without TLS."""
    given = conninfo_to_dict(url)
    host, number = str(given.get("host", "127.0.0.1")), given.get("port") or 5432

    async def connect() -> Streams:
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{number}")
        return await asyncio.open_connection(host, int(number))

    async with _proxy(connect, lambda: _watch_postgres(tap), tap) as port:
        login = quote(str(given.get("user", "")), safe="")
        if password := given.get("password"):
            login += ":" + quote(str(password), safe="")
        yield f"postgresql://{login}@127.0.0.1:{port}/{given['dbname']}?sslmode=disable&gssencmode=disable"


@asynccontextmanager
async def _proxy(
    connect: Callable[[], Awaitable[Streams]], watcher: Callable[[], Callable[[bytes], bool]], tap: Tap
) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            server_reader, server_writer = await connect()
            watch = watcher()
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(_commands(reader, server_writer, watch))
                    pumps.create_task(_replies(server_reader, writer, tap))
            except* (OSError, _Broken):
                pass
            finally:
                server_writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()
        for _ in range(3):  # an aborted transport closes its socket in a later step of the loop
            await asyncio.sleep(0)


async def _commands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Callable[[bytes], bool]) -> None:
    while data := await reader.read(65_536):
        if not watch(data):
            raise _Broken
        writer.write(data)
        await writer.drain()
    raise _Broken


async def _replies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tap: Tap) -> None:
    while data := await reader.read(65_536):
        if tap.cut == "when its answer comes" and b"COMMIT\0" in data:
            tap.cut = None
            raise _Broken
        await tap.replies.wait()
        writer.write(data)
        await writer.drain()
    raise _Broken

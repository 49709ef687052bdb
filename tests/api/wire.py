"""The server's protocol and parser on a listening socket, without uvicorn's signals and clock."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from app.api.context import STATE
from app.server.known_heads import KnownHeads
from tests.api.conftest import Service

_DATE = (b"date", b"Sat, 31 Jan 2026 09:05:00 GMT")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")


@dataclass(slots=True)
class Port:
    """A listening socket with the server's protocol behind it."""

    number: int
    state: ServerState
    connections: list[KnownHeads] = field(default_factory=list)

    def take(self, segment: bytes) -> None:
        """Give the newest connection a segment as if it had come alone, which a network does not promise."""
        self.connections[-1].data_received(segment)


@asynccontextmanager
async def listen(service: Service, protocol: type[KnownHeads] = KnownHeads) -> AsyncIterator[Port]:
    """Listen on a free port until the end."""
    async with listen_for(service.app, protocol) as port:
        yield port


@asynccontextmanager
async def listen_for(app: FastAPI, protocol: type[KnownHeads]) -> AsyncIterator[Port]:
    """Listen on a free port for an application whose ``Larder`` is there."""
    config = uvicorn.Config(app, interface="asgi3", lifespan="off", log_config=None, ws="none", proxy_headers=False)
    config.load()
    state = ServerState()
    state.default_headers = [_DATE]
    listening = Port(0, state)

    def connected() -> KnownHeads:
        listening.connections.append(protocol(config, state, {STATE: app.state.larder}))
        return listening.connections[-1]

    server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    listening.number = server.sockets[0].getsockname()[1]
    yield listening
    server.close()
    for left in listening.connections:
        left.transport.abort()  # a server that has stopped reading does not notice that its client has left
    await server.wait_closed()
    while state.connections:
        await asyncio.sleep(0)


@asynccontextmanager
async def connection(port: Port) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and return once the server has the connection."""
    before = len(port.connections)
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    while len(port.connections) == before or port.connections[-1].transport is None:
        await asyncio.sleep(0)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def answer_of(reader: asyncio.StreamReader, method: str = "GET") -> bytes:
    """One whole answer. Raises ``IncompleteReadError`` when the connection ends before it does."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    bodiless = method == "HEAD" or head[9:12] in {b"304", b"204"} or length is None
    return head if bodiless or length is None else head + await reader.readexactly(int(length[1]))

"""The proxy loses, holds and delays as networks do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.harness.proxy import HOST, Proxy, Target

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Echo:
    """A server that answers every line with itself and remembers what it was sent."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.news = asyncio.Event()
        self.serving: set[asyncio.Task[object]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self.serving.add(task)
        with suppress(ConnectionError):
            while line := await reader.readline():
                self.heard.append(line)
                self.news.set()
                writer.write(line)
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def _dialled(proxy: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        await _close(writer)


@pytest.fixture
async def echo() -> AsyncIterator[tuple[_Echo, Proxy]]:
    server = _Echo()
    listening = await asyncio.start_server(server.serve, HOST, 0)
    proxy = Proxy(Target(port=listening.sockets[0].getsockname()[1]))
    await proxy.open()
    yield server, proxy
    await proxy.aclose()
    listening.close()
    await asyncio.wait(server.serving, timeout=10)


async def test_held_commands_arrive_after_their_sender_has_gone(echo: tuple[_Echo, Proxy]) -> None:
    """A command that was held reaches the server although its connection was closed meanwhile."""
    server, proxy = echo
    async with _dialled(proxy) as (_, writer):
        proxy.hold()
        writer.write(b"late\n")
    assert server.heard == []
    await proxy.heal()
    async with asyncio.timeout(10):
        await server.news.wait()
    assert server.heard == [b"late\n"]


async def test_swallowed_replies_end_the_connection(echo: tuple[_Echo, Proxy]) -> None:
    """The command is carried out, its reply never comes, and no later reply takes its place."""
    server, proxy = echo
    async with _dialled(proxy) as (reader, writer):
        writer.write(b"a\n")
        assert await reader.readline() == b"a\n"
        server.news.clear()
        proxy.swallow()
        writer.write(b"b\n")
        await server.news.wait()
        while not any(link.lossy for link in proxy.links):
            await asyncio.sleep(0)
        await proxy.heal()
        assert await _rest(reader) == b""
    assert server.heard == [b"a\n", b"b\n"]


async def test_refused_and_healed(echo: tuple[_Echo, Proxy]) -> None:
    """Refusing breaks what there is and takes nothing new; after healing the same port works."""
    _, proxy = echo
    port = proxy.port
    async with _dialled(proxy) as (reader, writer):
        writer.write(b"a\n")
        assert await reader.readline() == b"a\n"
        proxy.refuse()
        assert await _rest(reader) == b""
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(HOST, port)
    await proxy.heal()
    assert proxy.port == port
    async with _dialled(proxy) as (reader, writer):
        writer.write(b"again\n")
        assert await reader.readline() == b"again\n"


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_reset(echo: tuple[_Echo, Proxy], busy: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The client sees a reset, not an end, on an idle connection and on one whose answer is under way; new ones work."""
    _, proxy = echo
    async with _dialled(proxy) as (reader, writer):
        writer.write(b"a\n")
        assert await reader.readline() == b"a\n"
        if busy:
            proxy.hold()
            writer.write(b"b\n")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    await proxy.heal()
    async with _dialled(proxy) as (reader, writer):
        writer.write(b"again\n")
        assert await reader.readline() == b"again\n"
    assert proxy.accepted == 2


async def test_delay_keeps_the_order(echo: tuple[_Echo, Proxy]) -> None:
    """What is sent late stays behind what was sent before it, also when the delay ends meanwhile."""
    server, proxy = echo
    async with _dialled(proxy) as (reader, writer):
        proxy.delay(0.05)
        writer.write(b"1\n")
        await proxy.heal()
        writer.write(b"2\n")
        assert [await reader.readline(), await reader.readline()] == [b"1\n", b"2\n"]
    assert server.heard == [b"1\n", b"2\n"]


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""

"""Servers with a fault: users of the session's Redis, and a stand-in for the Redis that nobody can set up here."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from tests.harness.redis_user import redis_user

RUN, DATA = "1b52" + 9 * "a09f", "77c3" + 9 * "5e1d"
SERVER = f"redis_version:7.2.0\r\nredis_mode:standalone\r\nrun_id:{RUN}\r\n"
REPLICATION = f"role:master\r\nmaster_replid:{DATA}\r\n"


@pytest.fixture
async def user_url(redis_url: str, namespace: str) -> AsyncIterator[Callable[[list[str]], object]]:
    """Make a user of the session's Redis with the given rules; return the URL by which it connects."""
    async with AsyncExitStack() as opened:
        numbers = itertools.count()

        async def make(rules: list[str]) -> str:
            return await opened.enter_async_context(redis_user(redis_url, f"{namespace}-{next(numbers)}", rules))

        yield make


@asynccontextmanager
async def stand_in(answer: Callable[[list[str]], bytes]) -> AsyncIterator[str]:
    """A server that answers each command as ``answer`` says; its URL."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.CancelledError, ConnectionError):
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2].decode())
                writer.write(answer(words))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"redis://{host}:{port}/0"
    finally:
        server.close()
        for writer in writers:
            writer.close()


def bulk(text: str) -> bytes:
    """A string as Redis sends it."""
    return f"${len(text)}\r\n{text}\r\n".encode()

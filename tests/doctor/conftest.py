"""Servers with a fault: users of the session's Redis, and a stand-in for the Redis that nobody can set up here."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis.asyncio

_DOCS = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
RUN, DATA = "1b52" + 9 * "a09f", "77c3" + 9 * "5e1d"
SERVER = f"redis_version:7.2.0\r\nredis_mode:standalone\r\nrun_id:{RUN}\r\n"
REPLICATION = f"role:master\r\nmaster_replid:{DATA}\r\n"


def documented_rules() -> list[str]:
    """The rules of Redis's user as docs/OPERATIONS.md names them."""
    found = re.search(r"^ACL SETUSER larder (.*?)```$", _DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1].replace(">secret", "").split()


@pytest.fixture
async def user_url(redis_url: str, namespace: str) -> AsyncIterator[Callable[[list[str]], object]]:
    """Make a user of the session's Redis with the given rules; return the URL by which it connects."""
    made: list[str] = []
    client = redis.asyncio.Redis.from_url(redis_url)

    async def make(rules: list[str]) -> str:
        name = f"{namespace}-{len(made)}"
        # fmt: off
        await client.execute_command("ACL", "SETUSER", name, *[r for r in rules if r], ">pw")  # type: ignore[no-untyped-call]
        # fmt: on
        made.append(name)
        parts = urlsplit(redis_url)
        return parts._replace(netloc=f"{quote(name)}:pw@{parts.netloc.rpartition('@')[2]}").geturl()

    yield make
    for name in made:
        await client.execute_command("ACL", "DELUSER", name)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    await client.aclose()


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

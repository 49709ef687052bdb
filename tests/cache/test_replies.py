"""The replies on one connection: those that came together are read together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import MovedError, ResponseError

from app.cache.errors import StoreUnavailable
from app.cache.redis.connection import RedisConnection
from app.cache.redis.refusals import Refusal
from app.cache.redis.replies import Replies

_COMMANDS = 20


class Counted:
    """A connection whose reads are counted."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._parser = connection._parser
        self.reads = 0

    async def send(self, *commands: tuple[str, ...]) -> None:
        """Send commands in one piece."""
        await self._connection.send_packed_command(self._connection.pack_commands(commands))

    async def read_response(self, **options: Any) -> Any:
        """Read one reply, as the driver does."""
        self.reads += 1
        return await self._connection.read_response(**options)


@asynccontextmanager
async def opened(url: str, protocol: int) -> AsyncIterator[Counted]:
    pool: Any = redis.asyncio.ConnectionPool.from_url(url, protocol=protocol)
    raw = pool.make_connection()
    await raw.connect()
    yield Counted(raw)
    await raw.disconnect()


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Counted]:
    async with opened(redis_url, 2) as connection:
        yield connection


async def test_replies_of_one_piece_are_read_once(connection: Counted) -> None:
    """The driver is asked for the first reply, and for another one only if it came later."""
    replies: Any = Replies(connection, refusals=False)  # type: ignore[arg-type]  # it has what is used of a connection
    await connection.send(*(("ECHO", str(number)) for number in range(_COMMANDS)))
    assert await replies.read(_COMMANDS) == [str(number).encode() for number in range(_COMMANDS)]
    assert connection.reads < _COMMANDS / 2


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_error_among_replies(connection: Counted, place: int) -> None:
    """It is raised wherever it stands."""
    replies: Any = Replies(connection, refusals=True)  # type: ignore[arg-type]  # as above
    commands: list[tuple[str, ...]] = [("ECHO", "a"), ("ECHO", "b"), ("ECHO", "c")]
    commands[place] = ("ECHO", "too", "many")
    await connection.send(*commands)
    with pytest.raises(ResponseError, match="wrong number"):
        await replies.read(3)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("refusals", [True, False])
async def test_refusal_among_replies(connection: Counted, place: int, refusals: bool) -> None:  # noqa: FBT001 - a parameter
    """It is a reply where refusals are, and an error elsewhere; its neighbours count."""
    replies: Any = Replies(connection, refusals=refusals)  # type: ignore[arg-type]  # as above
    commands: list[tuple[str, ...]] = [("ECHO", "a"), ("ECHO", "b"), ("ECHO", "c")]
    commands[place] = ("EVAL", "return redis.error_reply('MOVED 7 127.0.0.1:1')", "0")
    await connection.send(*commands)
    if not refusals:
        with pytest.raises(MovedError):
            await replies.read(3)
        return
    found = await replies.read(3)
    assert isinstance(found[place], Refusal)
    assert found[place].elsewhere
    assert [reply for reply in found if reply is not found[place]] == [text.encode() for text in "abc" if text != "abc"[place]]


@pytest.fixture
async def newer(redis_url: str) -> AsyncIterator[Counted]:
    """Open a connection of RESP3, by which messages come among the replies."""
    async with opened(redis_url, 3) as connection:
        yield connection


@pytest.mark.parametrize("place", range(4))
async def test_message_among_replies(newer: Counted, place: int) -> None:
    """It is no reply, wherever it stands: the replies before and behind it are what was asked for, also in the next call."""
    replies: Any = Replies(newer, refusals=True)  # type: ignore[arg-type]  # as above
    commands: list[tuple[str, ...]] = [("ECHO", text) for text in "abc"]
    # It has no reply but a message.
    await newer.send(*commands[:place], ("SUBSCRIBE", "messages"), *commands[place:], ("ECHO", "end"))
    assert await replies.read(3) == [b"a", b"b", b"c"]
    assert await replies.read(1) == [b"end"]


async def test_nothing_is_taken_from_the_parser_before_a_read(connection: Counted) -> None:
    """A reply that came before the reader was made is the first one that it reads."""
    connection._parser._reader.feed(b"+early\r\n")
    replies: Any = Replies(connection, refusals=False)  # type: ignore[arg-type]  # as above
    await connection.send(("ECHO", "late"))
    assert await replies.read(2) == [b"early", b"late"]


async def test_call_to_a_server_that_refuses_to_say_what_it_is() -> None:
    """The error has the server's words, and the connection is not used again."""
    server = await asyncio.start_server(_stale_replica, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        raw = redis.asyncio.Connection(host="127.0.0.1", port=port, protocol=2)
        await raw.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        opened = RedisConnection(raw, "run", 10.0, in_cluster=True, refusals=True)
        with pytest.raises(StoreUnavailable, match=r"^Redis failed: Link with MASTER is down$"):
            await opened.call(("ECHO", "a"))
        assert not opened.alive
        await opened.close()


async def _stale_replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every command, but not the script that asks for the identity."""
    while line := await reader.readline():
        words = []
        for _ in range(int(line[1:])):
            length = int((await reader.readline())[1:])
            words.append((await reader.readexactly(length + 2))[:-2])
        writer.write(b"-MASTERDOWN Link with MASTER is down\r\n" if words[0] == b"EVALSHA" else b"+OK\r\n")
    writer.close()

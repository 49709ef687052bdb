"""The replies on one connection: those that came together are read together."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import MovedError, ResponseError

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


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Counted]:
    pool: Any = redis.asyncio.ConnectionPool.from_url(redis_url, protocol=2)
    raw = pool.make_connection()
    await raw.connect()
    yield Counted(raw)
    await raw.disconnect()


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

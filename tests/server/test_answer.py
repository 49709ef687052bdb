"""What the transport of an answer writes, and when."""

import asyncio

from typing_extensions import override

from app.server.answer import AnswerTransport


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def is_closing(self) -> bool:
        return self.closed


def _answer(wire: Wire) -> AnswerTransport:
    return AnswerTransport(wire, asyncio.get_running_loop())


async def test_head_and_body_are_one_write() -> None:
    """The pieces after them are written as they come."""
    wire = Wire()
    answer = _answer(wire)
    answer.write(b"head ")
    answer.write(b"body")
    assert wire.writes == [b"head body"]
    answer.write(b"more")
    await asyncio.sleep(0)
    assert wire.writes == [b"head body", b"more"]


async def test_a_head_without_a_body_is_written_soon() -> None:
    """An answer to HEAD, or one whose body takes time."""
    wire = Wire()
    answer = _answer(wire)
    answer.write(b"head ")
    await asyncio.sleep(0)
    assert wire.writes == [b"head "]
    answer.write(b"body")
    assert wire.writes == [b"head ", b"body"]


async def test_a_head_is_written_before_the_end() -> None:
    """Nothing is lost when the connection is closed behind it."""
    wire = Wire()
    answer = _answer(wire)
    answer.write(b"head ")
    answer.close()
    assert (wire.writes, answer.is_closing()) == ([b"head "], True)
    await asyncio.sleep(0)
    assert wire.writes == [b"head "]


async def test_nothing_is_written_once_the_connection_is_closed() -> None:
    """Somebody else may close it between head and body."""
    wire = Wire()
    answer = _answer(wire)
    answer.write(b"head ")
    wire.close()
    await asyncio.sleep(0)
    assert wire.writes == []

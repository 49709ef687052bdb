"""The limits on clients, at a process that serves."""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from tests.api.wire import answer_of
from tests.cli.larder_process import LIMIT_S, Larder

_HALF_HEAD = b"GET /livez HTTP/1.1\r\n"
_REST = b"Host: larder\r\nConnection: close\r\n\r\n"


@pytest.mark.alone
@pytest.mark.parametrize("workers", [1, 2])
async def test_places_and_time_of_connections(larder: Larder, own_servers: Mapping[str, str], workers: int) -> None:
    """With all places taken by requests under way, a new connection gets 503; slow ones get 408, and their places are free."""
    limits = {"LARDER_CONNECTION_LIMIT": "1", "LARDER_HEAD_TIMEOUT_MS": "3000"}
    async with asyncio.timeout(LIMIT_S), larder.serving("serve", "--workers", str(workers), **own_servers, **limits) as serving:
        port = urlsplit(serving.url).port
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(workers)]
        for reader, writer in slow:
            # Once the request is answered, the server has the beginning of the next one, too, and the connection is not idle.
            writer.write(_HALF_HEAD + b"Host: larder\r\n\r\n" + _HALF_HEAD)
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        answers = [await _ask(port) for _ in range(workers)]
        assert {answer[9:12] for answer in answers} == {b"503"}
        assert all(b"\r\nretry-after: 1\r\n" in answer for answer in answers)
        for reader, writer in slow:
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()
        assert {(await _ask(port))[9:12] for _ in range(workers)} == {b"200"}


async def _ask(port: int | None) -> bytes:
    """Send a request on a connection of its own; the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_HALF_HEAD + _REST)
    answer = await reader.read()
    writer.close()
    return answer

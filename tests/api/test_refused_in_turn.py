"""A request that is refused is answered in its turn: its 400 is never taken for the answer to the request before it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import Service
from tests.api.wire import Port, answer_of, connection, listen

BODY = b'{"name": "Mug", "price_cents": 5}'
PUT = b"PUT /products/mug-red HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
POST = b"POST /products HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
OFFER = b"Upgrade: h2c\r\nConnection: upgrade\r\n"


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    async with listen(service) as port:
        yield port


@pytest.mark.parametrize("bad", [b"zz\r\n", b"0\r\n" + b"a:\r\n" * 1_200 + b"\r\n"], ids=["chunk", "trailers"])
async def test_write_before_a_request_that_is_refused(service: Service, port: Port, bad: bytes) -> None:
    """The write gets 201; the invalid request sent in the same segment gets 400."""
    async with asyncio.timeout(10), connection(port) as (reader, _):
        port.take(PUT + POST + bad)
        answers = await reader.read()
    assert answers.startswith(b"HTTP/1.1 201")
    assert answers.count(b"HTTP/1.1 400") == answers.count(b"HTTP/1.1 ") - 1 == 1
    assert "mug-red" in service.tables.rows


@pytest.mark.parametrize("offer", [b"", OFFER], ids=["plain", "offer"])
@pytest.mark.parametrize("excess", [b"a:\r\n" * 1_900, b"b: " + b"x" * 78_000 + b"\r\n"], ids=["lines", "bytes"])
async def test_large_head_in_small_segments(port: Port, offer: bytes, excess: bytes) -> None:
    """An offered Upgrade makes no difference to the bounds of a head."""
    head = b"GET /livez HTTP/1.1\r\nHost: larder\r\n" + offer + excess + b"\r\n"
    async with asyncio.timeout(10), connection(port) as (reader, _):
        for start in range(0, len(head), 1_460):
            port.take(head[start : start + 1_460])
        assert (await answer_of(reader))[9:12] == b"400"

"""How the HTTP clients of other languages write their requests: each gets its answer, on a connection that stays."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.api.conftest import Service
from tests.api.wire import Port, answer_of, connection, listen

_BODY = b'{"name": "Mug", "price_cents": 5}'
_H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
_LENGTH = b"Content-Length: %d\r\n" % len(_BODY)
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_IN_CHUNKS = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (_BODY[:5], len(_BODY) - 5, _BODY[5:])
HABITS = {
    # The JDK's HttpClient: the offer with every first request, the body after 100, or in chunks without a length.
    "jdk": (_H2C + _LENGTH + b"User-Agent: Java-http-client/21.0.4\r\nContent-Type: application/json\r\n", _BODY),
    "jdk, expecting": (_H2C + _LENGTH + b"Expect: 100-Continue\r\nContent-Type: application/json\r\n", _BODY),
    "jdk, publisher": (_H2C + _CHUNKED + b"Content-Type: application/json; charset=UTF-8\r\n", _IN_CHUNKS),
    "jdk, both": (_H2C + _CHUNKED + b"Expect: 100-Continue\r\nContent-Type: application/json\r\n", _IN_CHUNKS),
    # java.net.HttpURLConnection in streaming mode.
    "url connection": (
        b"Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2\r\nConnection: keep-alive\r\n"
        b"Content-type: application/json;charset=utf-8\r\n" + _CHUNKED,
        _IN_CHUNKS,
    ),
    # Apache's HttpClient 4 and 5, as Spring and Feign use them.
    "apache": (
        b"Accept: application/json, application/*+json\r\nContent-Type: application/json; charset=UTF-8\r\n"
        b"Accept-Encoding: gzip,deflate\r\nExpect: 100-continue\r\n" + _LENGTH,
        _BODY,
    ),
    "apache 5": (b'Content-Type: application/json; charset="utf-8"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: TLS/1.2\r\n'
                 + _LENGTH, _BODY),
    "okhttp": (b"Content-Type: application/json; charset=utf-8\r\nAccept-Encoding: gzip\r\n" + _LENGTH, _BODY),
    "dotnet": (b"Content-Type: application/json; charset=utf-8\r\nExpect: 100-continue\r\n" + _CHUNKED, _IN_CHUNKS),
    "curl": (b"Accept: */*\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n" + _LENGTH, _BODY),
    "php": (b"Content-Type: application/json\r\nConnection: close\r\n" + _LENGTH, _BODY),
    "go": (b"User-Agent: Go-http-client/1.1\r\nContent-Type: application/json\r\n" + _CHUNKED, _IN_CHUNKS),
}  # fmt: skip


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    async with listen(service) as port:
        yield port


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("waits", [True, False], ids=["waits for 100", "sends at once"])
async def test_a_write_as_other_clients_send_it(service: Service, port: Port, habit: str, *, waits: bool) -> None:
    """Whoever expects 100 gets it, also behind an offer of another protocol, and then the answer; the connection stays."""
    headers, body = HABITS[habit]
    expects = b"Expect:" in headers
    async with asyncio.timeout(10), connection(port) as (reader, writer):
        writer.write(b"PUT /products/mug-red HTTP/1.1\r\nHost: larder\r\n" + headers + b"\r\n")
        if expects and waits:
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await answer_of(reader)
        if answer.startswith(b"HTTP/1.1 100 "):
            answer = await answer_of(reader)
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert "mug-red" in service.tables.rows
        if b"Connection: close" not in headers:
            writer.write(b"GET /products/mug-red HTTP/1.1\r\nHost: larder\r\n\r\n")
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8", "us-ascii", "iso-8859-1", "utf-16"])
async def test_charsets(service: Service, port: Port, charset: str) -> None:
    """UTF-8 by its names is taken, and another one is refused before anything is read wrongly."""
    taken = "utf" in charset.lower() and "16" not in charset
    async with asyncio.timeout(10), connection(port) as (reader, writer):
        writer.write(
            b"PUT /products/mug-red HTTP/1.1\r\nHost: larder\r\n"
            + b"Content-Type: application/json; charset=%b\r\n" % charset.encode() + _LENGTH + b"\r\n" + _BODY
        )  # fmt: skip
        assert (await answer_of(reader))[9:12] == (b"201" if taken else b"415")
    assert ("mug-red" in service.tables.rows) is taken


async def test_request_as_a_proxy_is_asked(port: Port) -> None:
    """A request whose target is a whole URL, which clients send to a proxy, is answered like the one with a path."""
    async with asyncio.timeout(10), connection(port) as (reader, writer):
        for target in (b"http://larder/livez", b"/livez"):
            writer.write(b"GET %b HTTP/1.1\r\nHost: larder\r\n\r\n" % target)
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")

"""Where a request ends: offers of another protocol, and parts of a request that do not end."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.api.conftest import Service
from tests.api.wire import Port, answer_of, connection, listen

_BODY = b'{"name": "Mug", "price_cents": 5}'
_PUT = b"PUT /products/mug-red HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\n"
_GET = b"GET /products/mug-red HTTP/1.1\r\nHost: larder\r\n\r\n"
_DELETE = b"DELETE /products/mug-red HTTP/1.1\r\nHost: larder\r\n\r\n"
_OFFERS = {
    "curl": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    "java": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    b"Upgrade: h2c\r\nUser-Agent: Java-http-client/17.0.15\r\n",
    "websocket": b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "tls": b"upgrade: TLS/1.0, HTTP/2.0\r\nconnection: upgrade\r\n",
    "several": b"Upgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n",
    "unnamed": b"Upgrade: x\r\n",
}
_FRAMES = {
    "length": b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY),
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_BODY), _BODY),
    "trailers": b"Transfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"
    % (_BODY[:5], len(_BODY) - 5, _BODY[5:]),
}


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    async with listen(service) as port:
        yield port


@pytest.mark.parametrize("offer", _OFFERS)
@pytest.mark.parametrize("frame", _FRAMES)
@pytest.mark.parametrize("cut", ["whole", "head", "bytes"])
async def test_an_offer_is_ignored_and_the_body_is_a_body(port: Port, offer: str, frame: str, cut: str) -> None:
    """Whatever is offered and wherever the request is cut; the request behind it is the next one, and the connection stays."""
    request = _PUT + _OFFERS[offer] + _FRAMES[frame] + _GET
    head = request.index(b"\r\n\r\n") + 4
    pieces = {"whole": [request], "head": [request[:head], request[head:]], "bytes": [bytes([byte]) for byte in request]}
    async with asyncio.timeout(10), connection(port) as (reader, writer):
        for piece in pieces[cut]:
            port.take(piece)
        answers = [await answer_of(reader) for _ in range(2)]
        writer.write(_GET)
        answers.append(await answer_of(reader))
    assert [answer[9:12] for answer in answers] == [b"201", b"200", b"200"]
    assert all(b'"name":"Mug"' in answer for answer in answers)


@pytest.mark.parametrize("method", [b"POST /anything", b"POST /products", b"GET /livez", b"BREW /livez", b"OPTIONS *"])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"]
)
async def test_a_body_behind_an_offer_is_no_request(service: Service, port: Port, method: bytes, framing: bytes) -> None:
    """A deletion that somebody wrote into a body deletes nothing, in the segment of the head and in a later one."""
    for later in (False, True):
        async with asyncio.timeout(10), connection(port) as (reader, writer):
            writer.write(_PUT + _FRAMES["length"])
            await answer_of(reader)
            head, _, body = (framing % (len(_DELETE), _DELETE)).partition(b"\r\n\r\n")
            head = method + b" HTTP/1.1\r\nHost: larder\r\nUpgrade: h2c\r\nConnection: upgrade\r\n" + head + b"\r\n\r\n"
            last = _GET[:-2] + b"Connection: close\r\n\r\n"
            for segment in [head, body, last] if later else [head + body + last]:
                port.take(segment)
            await reader.read()
        assert "mug-red" in service.tables.rows


async def test_many_offers_in_one_segment_are_answered_in_order(port: Port) -> None:
    """Each is parsed once more; none is lost."""
    one = _GET[:-2] + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n"
    async with asyncio.timeout(20), connection(port) as (reader, writer):
        writer.write(_PUT + _OFFERS["curl"] + _FRAMES["length"] + one * 500 + _GET)
        answers = [await answer_of(reader) for _ in range(502)]
    assert [answer[9:12] for answer in answers] == [b"201"] + [b"200"] * 501


@pytest.mark.parametrize(
    "sent",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"CONNECT larder:80 HTTP/1.1\r\nHost: larder\r\n\r\n" + _DELETE,
        b"CONNECT /products HTTP/1.1\r\nHost: larder\r\nContent-Length: 51\r\n\r\n" + _DELETE,
        b"GET /livez HTTP/2.0\r\nHost: larder\r\n\r\n",
        b"GET /livez HTTP/0.9\r\nHost: larder\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET /livez RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        b"POST /products RTSP/1.1\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\n\r\n",
        b"DESCRIBE /products RTSP/1.0\r\n\r\n",
        b"SOURCE /products ICE/1.0\r\n\r\n",
        b"DELETE /products/a HTTP/1.1\r\nHost: larder\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"DELETE /a HTTP/1.1\r\nHost: larder\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"DELETE /products/a HTTP/1.0\r\nHost: larder\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"DELETE /products/a HTTP/1.1\r\nHost: larder\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_another_protocol_is_refused_and_the_connection_closed(port: Port, sent: bytes, *, whole: bool) -> None:
    """One problem, however the request is cut, and nothing that follows is looked at."""
    async with asyncio.timeout(10), connection(port) as (reader, _):
        for piece in [sent] if whole else [bytes([byte]) for byte in sent]:
            if not port.connections[-1].transport.is_closing():
                port.take(piece)
        answer = await answer_of(reader)
        assert await reader.read() == b""
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/problems/malformed-request"


async def test_names_of_other_protocols_elsewhere_are_text(port: Port) -> None:
    """In a header or a body they decide nothing."""
    body = b'{"name": "PUT /x RTSP/1.0", "price_cents": 5}'
    named = b"A: PUT /products/mug-red HTTP/1.1 RTSP/1.0\r\nB: x ICE/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with asyncio.timeout(10), connection(port) as (reader, _):
        for size in (1, 30, 1_000):
            sent = _PUT + named + body
            for start in range(0, len(sent), size):
                port.take(sent[start : start + size])
            assert (await answer_of(reader))[9:12] in {b"201", b"200"}


_LAST_CHUNK = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(_BODY), _BODY)
_LARGE = {
    "value": _GET[:-2] + b"a: " + b"x" * 65_536 + b"\r\n\r\n",
    "name": _GET[:-2] + b"x" * 65_536 + b": a\r\n\r\n",
    "line": b"GET /livez?" + b"x" * 65_536 + b" HTTP/1.1\r\nHost: larder\r\n\r\n",
    "values": _GET[:-2] + (b"a: " + b"x" * 600 + b"\r\n") * 110 + b"\r\n",
    "lines": _GET[:-2] + b"a:\r\n" * 1_000 + b"\r\n",
    "trailer lines": _PUT + _LAST_CHUNK + b"a:\r\n" * 999 + b"\r\n",
    "trailer values": _PUT + _LAST_CHUNK + (b"a: " + b"x" * 600 + b"\r\n") * 110 + b"\r\n",
    "both": _PUT + (b"a: " + b"x" * 600 + b"\r\n") * 60 + _LAST_CHUNK + (b"a: " + b"x" * 600 + b"\r\n") * 60 + b"\r\n",
}


@pytest.mark.parametrize("large", _LARGE)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_head_is_counted_whole(service: Service, port: Port, large: str, *, whole: bool) -> None:
    """Request line, names, values and trailers together, also when they come at once; nothing is done."""
    sent = _LARGE[large]
    async with asyncio.timeout(10), connection(port) as (reader, writer):
        size = len(sent) if whole else 1_460
        for start in range(0, len(sent), size):
            port.take(sent[start : start + size])
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 400 ")
        assert await reader.read() == b""
        writer.close()
    assert "mug-red" not in service.tables.rows


@pytest.mark.parametrize(
    "sent",
    [
        _GET[:-2] + b"a: " + b"x" * 65_000 + b"\r\n\r\n",
        _GET[:-2] + b"a:\r\n" * 999 + b"\r\n",
        _PUT + _LAST_CHUNK + b"a:\r\n" * 900 + b"\r\n",
        _PUT + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 8_000 + _LAST_CHUNK.partition(b"\r\n\r\n")[2] + b"\r\n",
    ],
    ids=["bytes", "lines", "trailers", "chunks"],
)
async def test_a_head_within_the_bounds_is_taken(port: Port, sent: bytes) -> None:
    """However it is cut, and however small a body's chunks are."""
    for size in (len(sent), 1_460):
        async with asyncio.timeout(10), connection(port) as (reader, writer):
            for start in range(0, len(sent), size):
                port.take(sent[start : start + size])
                await asyncio.sleep(0)
            assert (await answer_of(reader))[9:12] in {b"404", b"201", b"200"}
            writer.write(_GET)
            assert (await answer_of(reader))[9:12] in {b"404", b"200"}


_ENDLESS = {
    "request line": b"GET /",
    "header name": _GET[:-2],
    "header value": _GET[:-2] + b"a: ",
    "trailer name": _PUT + _LAST_CHUNK,
    "trailer value": _PUT + _LAST_CHUNK + b"a: ",
    "trailer lines": _PUT + _LAST_CHUNK + b"a: b\r\n" * 900,
    "chunk extension": _PUT + b"Transfer-Encoding: chunked\r\n\r\n1;",
    "offered": _PUT + _OFFERS["curl"] + _LAST_CHUNK + b"a: ",
}


@pytest.mark.parametrize("endless", _ENDLESS)
async def test_what_does_not_end_is_refused_before_it_is_kept(port: Port, endless: str) -> None:
    """200 MB of it take no memory, and no time."""
    async with asyncio.timeout(60), connection(port) as (reader, _):
        port.take(_ENDLESS[endless])
        gc.collect()
        tracemalloc.start()
        try:
            segment = b"x" * 65_536
            for _ in range(3_200):
                port.take(segment)
            kept, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert port.connections[-1].transport.is_closing()
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 400 ")
    assert (kept < 500_000, most < 1_000_000) == (True, True)


async def test_extensions_of_all_chunks_are_counted_together(port: Port) -> None:
    """A body of a few bytes cannot bring megabytes of them."""
    async with asyncio.timeout(30), connection(port) as (reader, _):
        port.take(_PUT + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            port.take(b"1;" + b"x" * 4_000 + b"\r\n \r\n")
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 400 ")


async def test_an_endless_body_of_an_answered_read_gets_no_second_answer(service: Service, port: Port) -> None:
    """The next request of the client would take it for its own."""
    async with asyncio.timeout(30), connection(port) as (reader, writer):
        writer.write(_PUT + _FRAMES["length"])
        await answer_of(reader)
        service.products.hot = True
        port.take(_GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1;")
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        for _ in range(10):
            port.take(b"x" * 65_536)
        with suppress(ConnectionError):
            assert await reader.read() == b""


@pytest.mark.parametrize("bad", [b"zz\r\n", b"0\r\n" + b"a:\r\n" * 1_200 + b"\r\n"], ids=["chunk", "trailers"])
async def test_write_before_a_request_that_is_refused(service: Service, port: Port, bad: bytes) -> None:
    """The write gets 201; the invalid request sent in the same segment gets 400."""
    post = _PUT.replace(b"PUT /products/mug-red", b"POST /products") + b"Transfer-Encoding: chunked\r\n\r\n"
    async with asyncio.timeout(10), connection(port) as (reader, _):
        port.take(_PUT + _FRAMES["length"] + post + bad)
        answers = await reader.read()
    assert answers.startswith(b"HTTP/1.1 201")
    assert answers.count(b"HTTP/1.1 400") == answers.count(b"HTTP/1.1 ") - 1 == 1
    assert "mug-red" in service.tables.rows


@pytest.mark.parametrize("offer", [b"", b"Upgrade: h2c\r\nConnection: upgrade\r\n"], ids=["plain", "offer"])
@pytest.mark.parametrize("excess", [b"a:\r\n" * 1_900, b"b: " + b"x" * 78_000 + b"\r\n"], ids=["lines", "bytes"])
async def test_large_head_in_small_segments(port: Port, offer: bytes, excess: bytes) -> None:
    """An offered Upgrade makes no difference to the bounds of a head."""
    head = b"GET /livez HTTP/1.1\r\nHost: larder\r\n" + offer + excess + b"\r\n"
    async with asyncio.timeout(10), connection(port) as (reader, _):
        for start in range(0, len(head), 1_460):
            port.take(head[start : start + 1_460])
        assert (await answer_of(reader))[9:12] == b"400"

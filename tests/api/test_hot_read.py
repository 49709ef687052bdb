"""The hot read and the ordinary endpoint answer alike, byte for byte, on a real connection."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cache.ports import Reading
from tests.api.conftest import Service
from tests.api.wire import Port, answer_of, connection, listen
from tests.fakes.products import EPOCH, INCARNATION

_IDS = st.sampled_from(
    ["mug-blue", "mug-gone", "mug:2.x", "never", "a%20b", "..", "", "mug-blue/stock", "%6dug-blue", "mug%2Fblue"]
)
_TAGS = st.sampled_from(['"1"', '"01"', '"2"', 'W/"1"', '"1", "2"', "*", '"x"', "1", ""])
_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "If-None-Match": _TAGS,
        "If-Match": _TAGS,
        "Cache-Control": st.sampled_from(["no-cache", "stale-if-error=5", "max-age=0", "no-store"]),
        "Accept": st.sampled_from(["*/*", "text/html"]),
        "Range": st.just("bytes=0-3"),
        "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "Connection": st.sampled_from(["close", "keep-alive"]),
        "Content-Length": st.just("0"),
    },
)
_QUERIES = st.sampled_from(["", "?", "?x=1"])
_PLAIN = b"GET /products/mug-blue HTTP/1.1\r\nHost: larder\r\n\r\n"
_ROUTE = "/products/{product_id}"
_IDENTITY = re.compile(rb"(x-request-id: )[0-9a-f]{32}\r\n")
_READ_AT_ONCE = 262_144
"""Bytes that the event loop reads before it asks the protocol again."""


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    async with listen(service) as port:
        yield port


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "GET", "HEAD"]),
    product_id=_IDS,
    query=_QUERIES,
    version=st.sampled_from(["1.1", "1.1", "1.0"]),
    headers=_HEADERS,
    cached=st.booleans(),
)
async def test_both_ways_give_the_same_answer(
    service: Service,
    port: Port,
    *,
    method: str,
    product_id: str,
    query: str,
    version: str,
    headers: dict[str, str],
    cached: bool,
) -> None:
    """Every byte is the same, for hits, misses and refusals, but for the request's id where the request brought none."""
    await _catalogue(service)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"{method} /products/{product_id}{query} HTTP/{version}\r\nHost: larder\r\n{lines}\r\n".encode()
    answers = []
    for in_front in (False, True):
        service.products.hot = in_front
        await _fill_slots(service, *(("mug-blue", "mug-gone", "mug:2.x") if cached else ()))
        async with connection(port) as (reader, writer):
            writer.write(request)
            answer = await answer_of(reader, method)
            ends = headers.get("Connection") == "close" or version == "1.0"
            assert await reader.read() == b"" if ends else not reader.at_eof()
        assert b"x-request-id: " in answer
        answers.append(answer if "traceparent" in headers else _IDENTITY.sub(rb"\1-", answer))
    ordinary, hot = answers
    assert hot == ordinary


async def test_a_plain_hit_does_not_reach_the_endpoint(service: Service, port: Port) -> None:
    """Otherwise the comparison above would compare the endpoint with itself; and it is counted like any other request."""
    await _catalogue(service)
    service.products.hot = True
    before = len(service.products.reads)
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        writer.write(_PLAIN[:-2] + b'If-None-Match: "1"\r\n\r\n')
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 304 ")
    assert len(service.products.reads) == before
    route = "/products/{product_id}"
    assert service.requests.requests["GET", route, 200] == service.requests.requests["GET", route, 304] == 1


@pytest.mark.guarantee("R1")
async def test_a_reading_goes_to_the_endpoint_of_its_own_request(service: Service, port: Port) -> None:
    """What a miss read of its slot saves the endpoint that read, and no later request of the connection is answered from it."""
    await _catalogue(service)
    service.products.hot = True
    await _fill_slots(service)
    async with connection(port) as (reader, writer):
        for request in (_PLAIN, _PLAIN[:-2] + b"Cache-Control: no-cache\r\n\r\n"):
            writer.write(request)
            await answer_of(reader)
    assert [read["reading"] for read in service.products.reads[-2:]] == [Reading(EPOCH, [None], INCARNATION), None]


async def test_pipelined_requests_are_answered_in_order(service: Service, port: Port) -> None:
    """Requests sent without waiting, plain and not, cut anywhere, get their answers in the order sent."""
    await _catalogue(service)
    service.products.hot = True
    paths = ["mug-blue", "mug:2.x", "never", "mug-blue?x=1", "mug-blue", "mug-gone", "mug:2.x"]
    whole = b"".join(f"GET /products/{path} HTTP/1.1\r\nHost: larder\r\n\r\n".encode() for path in paths)
    async with connection(port) as (reader, writer):
        for cut in range(0, len(whole), 29):
            writer.write(whole[cut : cut + 29])
            await writer.drain()
        answers = [await answer_of(reader) for _ in paths]
    assert [answer[9:12] for answer in answers] == [b"200", b"200", b"404", b"200", b"200", b"404", b"200"]
    found = [name[1] for answer in answers if (name := re.search(rb'"id":"([^"]+)"', answer))]
    assert found == [b"mug-blue", b"mug:2.x", b"mug-blue", b"mug-blue", b"mug:2.x"]


@pytest.mark.parametrize("cut", [0, 1, 3])
async def test_a_read_with_a_body_is_answered_like_another(service: Service, port: Port, cut: int) -> None:
    """Wherever the body is cut from its head, it is nobody's answer and no part of the next request."""
    await _catalogue(service)
    service.products.hot = True
    framings = (b"Content-Length: 3\r\n\r\n", b"abc"), (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n")
    async with connection(port) as (reader, writer):
        for head, body in framings:
            writer.write(_PLAIN[:-2] + head + body[:cut])
            answer = await answer_of(reader)
            writer.write(body[cut:] + _PLAIN)
            assert _IDENTITY.sub(b"", await answer_of(reader)) == _IDENTITY.sub(b"", answer)
            assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01", b"GET /products/a\x00b HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"],
)
async def test_what_is_not_http_is_answered_as_a_problem(port: Port, sent: bytes) -> None:
    """Like every other error; then the connection ends."""
    async with connection(port) as (reader, writer):
        writer.write(sent)
        answer = await answer_of(reader)
        assert await reader.read() == b""
    head, _, content = answer.partition(b"\r\n\r\n")
    assert (head[9:12], b"\r\ncontent-type: application/problem+json" in head) == (b"400", True)
    assert (json.loads(content)["type"], b"\r\nx-request-id: " in head) == ("/problems/malformed-request", True)


@pytest.mark.parametrize("known", [False, True])
async def test_a_stop_lets_a_read_under_way_finish(service: Service, port: Port, *, known: bool) -> None:
    """It is answered, told that this was the last answer, and the connection ends."""
    await _catalogue(service)
    if known:
        await _make_known(service, port)
    release = _hold(service)
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        then = await release()
        port.connections[-1].shutdown()
        then()
        assert b"\r\nconnection: close\r\n" in await answer_of(reader)
        assert await reader.read() == b""


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("cached", [True, False])
async def test_a_client_that_leaves_is_not_answered(service: Service, port: Port, *, cached: bool, known: bool) -> None:
    """A read whose client is gone ends there: without an error, and without a load of what the cache had not."""
    await _catalogue(service)
    if known:
        await _make_known(service, port)
    hits = service.requests.requests["GET", _ROUTE, 200]
    release = _hold(service)
    if not cached:
        await _fill_slots(service)
    before = len(service.products.reads)
    async with connection(port) as (_, writer):
        writer.write(_PLAIN)
        then = await release()
    while port.connections[-1] in port.state.connections:
        await asyncio.sleep(0)
    then()
    for _ in range(10):  # turns in which a task for the endpoint would have begun
        await asyncio.sleep(0)
    assert len(service.products.reads) == before
    assert service.requests.requests["GET", _ROUTE, 200] == hits


@pytest.mark.parametrize("known", [False, True])
async def test_a_client_that_does_not_read_is_waited_for(service: Service, port: Port, *, known: bool) -> None:
    """While its connection is full, the endpoint answers its requests and waits; answers do not pile up in memory."""
    await _catalogue(service)
    if known:
        await _make_known(service, port)
    service.products.hot = True
    before = len(service.products.reads)
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        port.connections[-1].pause_writing()
        writer.write(_PLAIN)
        while len(service.products.reads) == before:
            await asyncio.sleep(0)
        port.connections[-1].resume_writing()
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
    assert len(service.products.reads) == before + 1


@pytest.mark.parametrize("known", [False, True])
async def test_a_hit_is_counted_once_though_the_connection_fills_up(service: Service, port: Port, *, known: bool) -> None:
    """A value that was read and counted is not read and counted again by the endpoint."""
    await _catalogue(service)
    if known:
        await _make_known(service, port)
    release = _hold(service)
    before = len(service.products.reads)
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        then = await release()
        port.connections[-1].pause_writing()
        then()
        for _ in range(10):  # iterations in which a task for the endpoint would have begun
            await asyncio.sleep(0)
        port.connections[-1].resume_writing()
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
    assert len(service.products.reads) == before


@pytest.mark.parametrize("endless", [b"x" * 65_536, b"a: b\r\n" * 10_000], ids=["line", "lines"])
async def test_a_head_without_an_end_is_refused(port: Port, endless: bytes) -> None:
    """Its bytes would be kept, its lines at twenty times their size, until the machine has no memory left."""
    with suppress(ConnectionError):  # what it goes on to send meets a closed connection
        async with asyncio.timeout(10), connection(port) as (reader, writer):
            writer.write(_PLAIN[:-2] + b"x: ")
            for _ in range(100):
                writer.write(endless)
                await writer.drain()
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    assert port.connections[-1].transport.is_closing()


async def test_pipelined_requests_do_not_pile_up(service: Service, port: Port) -> None:
    """However many are sent, those that wait for their turn came with what was read at once: an answer lets no more in."""
    await _catalogue(service)
    service.products.hot = True
    most, sent = 0, 30_000
    async with connection(port) as (reader, writer):
        writing = asyncio.create_task(_write(writer, _PLAIN * sent))
        for _ in range(sent):
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
            most = max(most, len(port.connections[-1].pipeline))
        await writing
    assert 0 < most <= 2 * _READ_AT_ONCE // len(_PLAIN)


async def test_nonsense_after_a_request_is_not_its_answer(service: Service, port: Port) -> None:
    """The request that came whole before it gets its own answer, the last one; a client would take a 400 for it."""
    await _catalogue(service)
    release = _hold(service)
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN + b"\x00\r\n\r\n")
        (await release())()
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        assert await reader.read() == b""


async def test_a_trailer_is_not_a_header(service: Service, port: Port) -> None:
    """A precondition after the body decides nothing: proxies pass trailers on that they have not looked at."""
    await _catalogue(service)
    async with connection(port) as (reader, writer):
        writer.write(
            b"PATCH /products/mug-blue HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\n"
            b'Transfer-Encoding: chunked\r\n\r\nf\r\n{"name": "Pot"}\r\n0\r\nIf-Match: "99"\r\n\r\n'
        )
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")


async def _make_known(service: Service, port: Port) -> None:
    """Let the service parse the head of ``_PLAIN`` once."""
    service.products.hot = True
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")


async def _write(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    await writer.drain()


def _hold(service: Service) -> Callable[[], Coroutine[None, None, Callable[[], None]]]:
    """Hold the hot read's answers; what is given waits until there is one, and gives it."""
    held: list[Callable[[], None]] = []
    service.products.hot, service.products.held = True, held

    async def first() -> Callable[[], None]:
        while not held:
            await asyncio.sleep(0)
        return held.pop()

    return first


async def _catalogue(service: Service) -> None:
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://larder") as client:
        for product_id in ("mug-blue", "mug-gone", "mug:2.x"):
            await client.post("/products", json={"id": product_id, "name": "Mug", "price_cents": 5})
        await client.delete("/products/mug-gone")


async def _fill_slots(service: Service, *product_ids: str) -> None:
    """Empty the cache, but for these products."""
    service.products.slots.clear()
    for product_id in product_ids:
        await service.products.get(product_id)

"""A write whose head is known gets the answer that a parsed one gets, whatever came before it on its connection."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.access.key_ring import KeyRing
from app.access.keys import Scope
from app.access.rates import Limits
from app.api.load import CALM
from app.server.timeouts import Wait
from tests.api.conftest import Service, new_service
from tests.api.wire import Port, answer_of, connection, listen
from tests.fakes.keys import MemoryKeys


def _write(path: str, body: bytes, head: str = "", method: str = "PUT") -> bytes:
    """A write whose head names the length of its body last."""
    named = f"{method} {path} HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\n{head}Content-Length: {len(body)}"
    return named.encode() + b"\r\n\r\n" + body


_MUG = _write("/products/mug/stock", b'{"stock": 5}')
_POT = _write("/products/pot/stock", b'{"stock": 7}')
_LAST = _write("/products/mug/stock", b'{"stock": 1}', "Connection: close\r\n")
_REQUESTS = st.sampled_from(
    [
        _MUG,
        _POT,
        _write("/products/never/stock", b'{"stock": 7}'),
        _write("/products/../stock", b'{"stock": 7}'),
        _write("//products/mug/stock", b'{"stock": 7}'),
        _write("/products/mug/stock?x=1", b'{"stock": 7}'),
        _write("/products/m%75g/stock", b'{"stock": 7}'),
        _write("/products/mug/stock", b"no JSON here"),
        _write("/products/mug/stock", b'{"stock": 123456}'),
        _write("/products/mug/stock/adjustments", b'{"delta":-1}', method="POST"),
        _write("/products/mug/stock", b'{"stock": 5}', "Idempotency-Key: key\r\n"),
        _write("/products/mug/stock", b'{"stock": 5}', 'If-Match: "1"\r\n'),
        _write("/products/mug/stock", b'{"stock": 5}', "Expect: 100-continue\r\n"),
        _write("/products/mug/stock", b'{"stock": 5}', "Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n"),
        _write("/products/mug/stock", b'{"stock": 5}', "Host: larder\r\n"),
        _write("/products/mug/stock", b'{"stock": 5}', "X: " + "x" * 1_100 + "\r\n"),
        _write("/products/mug/stock", _POT),
        _write("/products/mug", b"", method="DELETE"),
        b"DELETE /products/pot HTTP/1.1\r\nHost: larder\r\n\r\n",
        b"PUT /products/mug/stock HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_POT), _POT),
        b"PUT /products/mug/stock HTTP/1.1\r\nX: " + _POT,
        b"\r\n" + _MUG,
        _MUG + b"\r\n",
        b"GET /products/mug HTTP/1.1\r\nHost: larder\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: larder\r\nContent-Length: %d\r\n\r\n%b" % (len(_MUG), _MUG),
    ]
)
_CUTS = st.lists(st.sampled_from([b"PUT ", b"Host", b"Content-L", b"\r\n\r\n", b" HTTP", b'"stock']), max_size=2)
_VARYING = re.compile(rb"x-request-id: [0-9a-f]{32}\r\n")


class _Forgetful(dict[Any, Any]):
    """A table of known heads that keeps none."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


async def _filled() -> Service:
    service = new_service()
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://larder") as client:
        for product_id in ("mug", "pot"):
            await client.post("/products", json={"id": product_id, "name": "Mug", "price_cents": 5})
    return service


@pytest.fixture
async def service() -> Service:
    return await _filled()


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    async with listen(service) as port:
        yield port


@pytest.fixture
async def ports() -> AsyncIterator[list[Port]]:
    """Two services that get the same requests; the first one keeps no heads."""
    services = [await _filled(), await _filled()]
    object.__setattr__(services[0].app.state.larder, "known_heads", _Forgetful())
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(listen(service)) for service in services]


async def _answers(port: Port, pieces: Sequence[bytes], *, at_once: bool) -> bytes:
    """Return all that the server answers until it closes the connection, without the ids of the requests."""
    async with asyncio.timeout(20), connection(port) as (reader, _):
        for piece in (*pieces, _LAST):
            if not port.connections[-1].transport.is_closing():
                port.take(piece)
            if not at_once:
                for _ in range(20):
                    await asyncio.sleep(0)
        answers = await reader.read()
    return _VARYING.sub(b"", answers)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(_REQUESTS, min_size=1, max_size=6), cuts=_CUTS, together=st.booleans(), at_once=st.booleans())
@example(requests=[_POT, b"PUT /products/mug/stock HTTP/1.1\r\nX: " + _POT], cuts=[b"PUT "], together=False, at_once=False)
@example(requests=[_write("/products/mug/stock", _POT)], cuts=[b"PUT "], together=False, at_once=False)
@example(requests=[_MUG + b"\r\n", _MUG + b"\r\n", _MUG], cuts=[], together=False, at_once=False)
@example(requests=[_MUG, _POT, _MUG], cuts=[], together=False, at_once=True)
async def test_known_heads_change_no_answer(
    ports: list[Port], *, requests: list[bytes], cuts: list[bytes], together: bool, at_once: bool
) -> None:
    """Pipelined, cut, beside bodies that look like requests: a server that knows heads answers as one that knows none."""
    pieces = [b"".join(requests)] if together else list(requests)
    for mark in cuts:
        pieces = [part for piece in pieces for part in re.split(b"(?=%b)" % re.escape(mark), piece) if part]
    answers = []
    for port in ports:
        before = await _answers(port, [_MUG, _POT], at_once=False)
        answers.append(before + await _answers(port, pieces, at_once=at_once))
    assert answers[1] == answers[0]


async def test_the_second_write_is_not_parsed(service: Service, port: Port) -> None:
    """Otherwise the comparison above would compare the parser with itself. Other paths and connections count, too."""
    for number in range(2):
        async with connection(port) as (reader, writer):
            server = port.connections[-1]
            if number:
                server.parser = None  # type: ignore[assignment] # nothing may be fed
            for request in (_MUG, _POT, _MUG):
                writer.write(request)
                assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
                server.parser = None if number else server.parser  # type: ignore[assignment]
            assert server.scope["path"] == "/products/mug/stock"
    assert service.requests.requests["PUT", "/products/{product_id}/stock", 200] == 6
    assert port.state.total_requests == 6


async def test_heads_that_differ_each_time_are_not_kept(service: Service, port: Port) -> None:
    """Each of them would displace one that comes again. Their connection is not looked at any more, but others are."""
    async with connection(port) as (reader, writer):
        for line in ("Idempotency-Key: a\r\n", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"):
            writer.write(_write("/products/mug/stock", b'{"stock": 5}', line))
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        writer.write(_MUG)
        await answer_of(reader)
    assert not service.app.state.larder.known_heads
    async with connection(port) as (reader, writer):
        writer.write(_MUG)
        await answer_of(reader)
    assert len(service.app.state.larder.known_heads) == 1


async def test_a_connection_does_not_displace_the_heads_of_others(service: Service, port: Port) -> None:
    """It adds a few of which none comes again, and then it is not looked at any more."""
    async with connection(port) as (reader, writer):
        for number in range(40):
            writer.write(_write("/products/mug/stock", b'{"stock": 5}', f"X-Request-Id: {number}\r\n"))
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
    assert len(service.app.state.larder.known_heads) == 16


async def test_a_body_has_the_announced_length(port: Port) -> None:
    """A blank line behind a request is no part of its body; what comes in its place begins the next request."""
    async with asyncio.timeout(20), connection(port) as (reader, _):
        for piece in (_MUG + b"\r\n", _MUG + _POT[:2], _POT[2:]):
            port.take(piece)
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_large_body_counts_towards_the_limit(port: Port) -> None:
    """Only a piece that is parsed at once may have a known head: its body counts nowhere."""
    large = _write("/products/mug/stock", b'{"stock": 5' + b" " * 20_000 + b"}")
    async with connection(port) as (reader, _):
        for _ in range(2):
            port.take(large)
            assert port.connections[-1]._held.received > 20_000
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 413 ")


async def test_a_known_head_is_shed_like_another(service: Service, port: Port) -> None:
    """Its body is dropped, and the connection goes on with the next request."""
    async with connection(port) as (reader, writer):
        writer.write(_MUG)
        await answer_of(reader)
        service.app.state.larder.load.pressure = CALM + 3.0
        writer.write(_MUG)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 503 ")
        service.app.state.larder.load.pressure = 0.0
        writer.write(_POT)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_write_under_way_is_no_wait_for_the_client(port: Port) -> None:
    """While it is answered, no time limit counts; afterwards the connection is idle."""
    async with connection(port) as (reader, writer):
        writer.write(_MUG)
        await answer_of(reader)
        server = port.connections[-1]
        port.take(_POT)
        assert (server.waiting(), server.idle()) == (None, None)
        await answer_of(reader)
        waiting = server.waiting()
        assert waiting is not None
        assert waiting.kind is Wait.IDLE


async def test_the_key_is_checked_for_each_request(service: Service, port: Port) -> None:
    """A known head opens nothing after its key was revoked."""
    source = MemoryKeys()
    authorization = source.add(scopes=frozenset(Scope))
    ring = KeyRing([source], limits=Limits())
    assert await ring.renew()
    service.app.state.larder.admission.ring = ring
    keyed = _write("/products/mug/stock", b'{"stock": 5}', f"Authorization: {authorization.decode()}\r\n")
    async with connection(port) as (reader, writer):
        for _ in range(2):
            writer.write(keyed)
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        source.revoke("k0")
        assert await ring.renew()
        writer.write(keyed)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 401 ")

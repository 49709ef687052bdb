"""What the server takes and sends as a whole comes to the same as what uvicorn receives and sends in parts."""

import asyncio
import gc
import re
import weakref
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.context import STATE
from app.api.exchange import deliver
from app.server.exchange import Exchange
from app.server.known_heads import KnownHeads
from tests.api.conftest import Service, new_service
from tests.api.wire import Port, answer_of, connection, listen

_VARYING = re.compile(rb'(x-request-id: |"id":"|/reservations/|reservation )[0-9a-f]{32}|"id":"[^"]{20,}"')
_JSON = "application/json"
_BODIES = st.sampled_from(
    [
        b'{"stock": 5}', b'{"delta": 2, "reason": "receipt"}', b'{"delta": -999, "reason": "sale"}', b"{}", b"[]", b"", b"{",
        b'{"lines":[{"product_id":"mug-blue","quantity":1}],"expires_in_s":600}', b'{"stock": 5, "stock": 6}', b"\xff",
        b'{"stock": 5, "reference": "' + b"x" * 9_000 + b'"}', b'{"name": "Mug", "price_cents": 5}',
    ]
)  # fmt: skip
_TARGETS = st.sampled_from(
    [
        "PUT /products/mug-blue/stock", "POST /products/mug-blue/stock/adjustments", "POST /reservations",
        "POST /reservations/0123456789abcdef0123456789abcdef/commit", "PUT /products/never/stock", "PUT /products/a%20b/stock",
        "PUT /products/mug-blue/stock?x=1", "PATCH /products/mug-blue", "DELETE /products/mug-red", "GET /products?limit=1",
        "HEAD /products?limit=1", "GET /products/mug-blue?x=1", "GET /livez", "HEAD /livez", "POST /livez", "GET /nowhere",
        "PUT /products/a%2Fb/stock", "OPTIONS /reservations", "GET /docs", "GET /stock/movements?reference=none",
    ]
)  # fmt: skip
_HEADERS = st.fixed_dictionaries(
    {"Content-Type": st.sampled_from([_JSON, _JSON, _JSON, f"{_JSON}; charset=utf-8", "text/plain"])},
    optional={
        "Host": st.sampled_from(["elsewhere", "larder:1", "a b"]),
        "If-Match": st.sampled_from(['"1"', "*", "x"]),
        "Idempotency-Key": st.sampled_from(["key-1", "key-2", "\u00e4"]),
        "Origin": st.sampled_from(["http://larder", "http://elsewhere"]),
        "Content-Encoding": st.sampled_from(["identity", "gzip"]),
        "Expect": st.just("100-continue"),
        "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "Connection": st.sampled_from(["close", "keep-alive"]),
    },
)


class _InParts(KnownHeads):
    """A connection whose application gets only what uvicorn gives."""

    @override
    def _start_application(self, cycle: RequestResponseCycle, app: Any) -> None:
        HttpToolsProtocol._start_asgi_task(self, cycle, app)


def _bytes_of(target: str, headers: dict[str, str], body: bytes, version: str, *, repeat: bool) -> bytes:
    sent = {"Host": "larder", "Content-Length": str(len(body))} | headers
    lines = [f"{name}: {value}\r\n" for name, value in sent.items()]
    if repeat:
        lines.insert(1, lines[-1])
    head = f"{target} HTTP/{version}\r\n{''.join(lines)}\r\n"
    return head.encode("latin-1") + body


async def _catalogue(service: Service) -> None:
    async with listen(service) as port, connection(port) as (reader, writer):
        for name in ("mug-blue", "mug-red"):
            body = b'{"id":"%b","name":"Mug","price_cents":5,"stock":40}' % name.encode()
            writer.write(_bytes_of("POST /products", {"Content-Type": _JSON}, body, "1.1", repeat=False))
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 201 ")


async def _answers(port: Port, request: bytes, cut: int, *, ends: bool) -> bytes:
    """All that the service says to a request that comes in pieces of a size, and to one after it on the same connection."""
    method = request.partition(b" ")[0].decode()
    async with connection(port) as (reader, writer):
        for start in range(0, len(request), cut):
            writer.write(request[start : start + cut])
            await asyncio.sleep(0)
        said = await answer_of(reader, method)
        if said.startswith(b"HTTP/1.1 100 "):
            said += await answer_of(reader, method)
        if ends or b"\r\nconnection: close\r\n" in said:
            assert await reader.read() == b""
        else:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: larder\r\n\r\n")
            said += await answer_of(reader)
    return _VARYING.sub(rb"\1-", said)


@pytest.fixture
async def services() -> list[Service]:
    """Two services that get the same requests, so that their tables stay the same."""
    services = [new_service(), new_service()]
    for service in services:
        await _catalogue(service)
    return services


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    target=_TARGETS,
    headers=_HEADERS,
    body=_BODIES,
    version=st.sampled_from(["1.1", "1.1", "1.1", "1.0"]),
    repeat=st.booleans(),
    cut=st.sampled_from([29, 400, 100_000]),
)
async def test_both_ways_say_the_same(
    services: list[Service],
    *,
    target: str,
    headers: dict[str, str],
    body: bytes,
    version: str,
    repeat: bool,
    cut: int,
) -> None:
    """Every byte is the same for what is read, written, refused and not understood, wherever it is cut; but for made ids."""
    request = _bytes_of(target, headers, body, version, repeat=repeat)
    ends = version == "1.0" or headers.get("Connection") == "close"
    said = []
    for service, protocol in zip(services, (KnownHeads, _InParts), strict=True):
        async with listen(service, protocol) as port:
            # A connection that ends after an early answer resets what comes late, and its client may lose the answer.
            said.append(await _answers(port, request, len(request) if ends else cut, ends=ends))
    assert said[0] == said[1]


class _Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 4711), "sockname": ("127.0.0.1", 8000)})
        self.writes: list[bytes] = []
        self.closed = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def resume_reading(self) -> None:
        pass


async def _writes(service: Service, *pieces: bytes) -> list[bytes]:
    """What a connection writes, each write by itself, about a request that comes in these pieces."""
    config = uvicorn.Config(service.app, interface="asgi3", lifespan="off", log_config=None, ws="none", proxy_headers=False)
    config.load()
    wire = _Wire()
    server = KnownHeads(config, ServerState(), {STATE: service.app.state.larder})
    server.connection_made(wire)
    for piece in pieces:
        server.data_received(piece)
        await asyncio.sleep(0)
    while not server.cycle.response_complete:
        await asyncio.sleep(0)
    return wire.writes


async def test_an_answer_that_ends_its_connection() -> None:
    """The connection is closed after it, as uvicorn does when the application says so."""

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await deliver(Response(b"body", headers={"Connection": "close"}), scope, receive, send)

    service = new_service()
    config = uvicorn.Config(closes, interface="asgi3", lifespan="off", log_config=None, ws="none", proxy_headers=False)
    config.load()
    wire = _Wire()
    server = KnownHeads(config, ServerState(), {STATE: service.app.state.larder})
    server.connection_made(wire)
    server.data_received(b"GET /livez HTTP/1.1\r\nHost: larder\r\n\r\n")
    while not server.cycle.response_complete:
        await asyncio.sleep(0)
    assert b"\r\nconnection: close\r\n" in b"".join(wire.writes)
    assert wire.closed


@pytest.mark.parametrize("value", ["a\r\nY: b", "a\nb", "a\rb", "\x00", "\x1f", "\x7f", "a\tb\u00e9"])
async def test_no_value_of_an_answer_ends_its_line(value: str) -> None:
    """An answer with such a header is not written, and its connection is closed, as uvicorn has it. A tab is allowed."""

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await deliver(Response(b"body", headers={"X": value}), scope, receive, send)

    service = new_service()
    config = uvicorn.Config(answers, interface="asgi3", lifespan="off", log_config=None, ws="none", proxy_headers=False)
    config.load()
    wire = _Wire()
    server = KnownHeads(config, ServerState(), {STATE: service.app.state.larder})
    server.connection_made(wire)
    server.data_received(b"GET /livez HTTP/1.1\r\nHost: larder\r\n\r\n")
    while not (wire.closed or wire.writes):
        await asyncio.sleep(0)
    line = f"x: {value}\r\n".encode("latin-1")
    assert (wire.closed, line in b"".join(wire.writes)) == ((False, True) if "\t" in value else (True, False))


async def test_an_answer_is_one_write() -> None:
    """Each write is a system call, and wakes the client. An answer to an expectation comes before it."""
    service = new_service()
    await _catalogue(service)
    json = {"Content-Type": _JSON}
    for target, body in (
        ("PUT /products/mug-blue/stock", b'{"stock": 5}'),
        ("PUT /products/mug-blue/stock", b"{"),
        ("GET /products", b""),
        ("GET /livez", b""),
    ):
        whole = _bytes_of(target, json, body, "1.1", repeat=False)
        assert len(await _writes(service, whole)) == 1
        assert len(await _writes(service, whole[:-1], whole[-1:])) == 1
    whole = _bytes_of("PUT /products/mug-blue/stock", json | {"Expect": "100-continue"}, b'{"stock": 5}', "1.1", repeat=False)
    assert [answer[9:12] for answer in await _writes(service, whole)] == [b"100", b"200"]


async def test_a_request_is_no_garbage() -> None:
    """What belongs to a request is gone with the next one. In a circle, it would stay until a collection searched for it."""
    service = new_service()
    await _catalogue(service)
    gc.disable()
    try:
        async with listen(service) as port, connection(port) as (reader, writer):
            past = []
            for target in ("PUT /products/mug-blue/stock", "GET /products", "GET /livez"):
                writer.write(_bytes_of(target, {"Content-Type": _JSON}, b'{"stock": 5}', "1.1", repeat=False))
                assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
                past.append(weakref.ref(port.connections[-1].cycle))
            await asyncio.sleep(0)
            assert [request() is None for request in past] == [True, True, False]
    finally:
        gc.enable()


async def test_a_body_is_taken_once() -> None:
    """It is taken only when it is there, and only by the first who wants it."""
    cycle = RequestResponseCycle.__new__(RequestResponseCycle)
    cycle.disconnected = cycle.response_complete = cycle.waiting_for_100_continue = False
    cycle.body, cycle.more_body, cycle.message_event = bytearray(b"body"), True, asyncio.Event()
    cycle.message_event.set()
    cycle.flow = FlowControl(_Wire())
    taken = Exchange(cycle, None).take_body  # type: ignore[arg-type] # no application is called
    assert taken() is None
    cycle.more_body = False
    cycle.disconnected = True
    assert taken() is None
    cycle.disconnected = False
    assert [taken(), taken()] == [b"body", None]

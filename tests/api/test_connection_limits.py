"""What a connection may cost: the time that it waits for its client, and the memory that it holds."""

import asyncio
import gc
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import cast

import pytest

from app.api.load import CALM
from app.server.capacity import FREE_BODY_BYTES
from app.server.framing import PIECE_BYTES
from app.server.known_heads import KnownHeads
from app.server.timeouts import TimeLimits, sweep
from app.settings import Settings
from tests.api.conftest import LIMIT, Service
from tests.api.wire import Port, answer_of, connection, listen

_GET = b"GET /products/mug-red HTTP/1.1\r\nHost: larder\r\n\r\n"
_PUT = b"PUT /products/mug-red HTTP/1.1\r\nHost: larder\r\nContent-Type: application/json\r\n"
_BODY = b'{"name": "Mug", "price_cents": 5}'
_LENGTH = b"Content-Length: %d\r\n\r\n" % len(_BODY)
_LIMITS = TimeLimits.of(Settings.from_env({}))
_LOOK_S = 0.5


class Clock:
    """Virtual time, which begins now, and in which the sweep runs as it does on a server."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self.now = asyncio.get_running_loop().time()

    async def pass_s(self, seconds: float, each_look: Callable[[], None] = lambda: None) -> None:
        """Let time pass."""
        for _ in range(round(seconds / _LOOK_S)):
            each_look()
            await _settled()
            self.now += _LOOK_S
            sweep(cast("set[KnownHeads]", self._port.state.connections), self.now, _LIMITS)
        await _settled()


async def _settled() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    async with listen(service) as port:
        yield port


@pytest.fixture
async def clock(port: Port) -> Clock:
    return Clock(port)


def _closed(service: Service) -> dict[str, int]:
    return dict(service.requests.connections.closed)


def _is_timeout(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 408 Request Timeout") and json.loads(body)["type"] == "/problems/request-timeout"


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "empty lines"])
async def test_silent_connection(service: Service, port: Port, clock: Clock, sent: bytes) -> None:
    """It is closed after the time for a head, without an answer to a request that was not begun."""
    async with connection(port) as (reader, _):
        await clock.pass_s(9.5, lambda: port.take(sent) if sent else None)
        assert not port.connections[-1].transport.is_closing()
        await clock.pass_s(1.5)
        assert await reader.read() == b""
    assert _closed(service) == {"head_timeout": 1}


@pytest.mark.parametrize("before", [b"", _GET], ids=["first", "next"])
async def test_trickled_head(service: Service, port: Port, clock: Clock, before: bytes) -> None:
    """A head that grows by a line every half second is answered with 408 when its time is over, counted from its first byte."""
    async with connection(port) as (reader, writer):
        if before:
            writer.write(before)
            await answer_of(reader)
            await clock.pass_s(60)
        port.take(_GET[:-2])
        await clock.pass_s(9.5, lambda: port.take(b"a: b\r\n"))
        assert not port.connections[-1].transport.is_closing()
        await clock.pass_s(1.5)
        assert _is_timeout(await answer_of(reader))
        assert await reader.read() == b""
    assert _closed(service) == {"head_timeout": 1}


async def test_half_a_head_behind_a_request_under_way(service: Service, port: Port, clock: Clock) -> None:
    """The request gets its own answer, which is the last one; a 408 before it would be taken for that answer."""
    held: list[Callable[[], None]] = []
    service.products.hot, service.products.held = True, held
    service.app.state.larder.admission.check_host([(b"host", b"larder")], "/")  # a hot read needs a host that was checked
    async with connection(port) as (reader, _):
        port.take(_GET + _GET[:10])
        await clock.pass_s(12)
        held.pop()()
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 404 ")
        assert await reader.read() == b""
    assert _closed(service) == {"head_timeout": 1}


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_body_that_stops(service: Service, port: Port, clock: Clock, framing: str) -> None:
    """After five seconds a body must keep its rate; one that stopped is answered with 408, and nothing is done."""
    start = {"length": _LENGTH, "chunked": b"Transfer-Encoding: chunked\r\n\r\n21\r\n"}[framing] + _BODY[:20]
    async with connection(port) as (reader, _):
        port.take(_PUT + start)
        await clock.pass_s(5)
        assert not port.connections[-1].transport.is_closing()
        await clock.pass_s(1.5)
        assert _is_timeout(await answer_of(reader))
        assert await reader.read() == b""
    assert "mug-red" not in service.tables.rows
    assert _closed(service) == {"body_timeout": 1}


async def test_body_that_is_slow_but_steady(service: Service, port: Port, clock: Clock) -> None:
    """A body at a little more than the least rate is received; at the end of its time it is not, however steady."""
    head = _PUT + b"Transfer-Encoding: chunked\r\n\r\n"
    async with connection(port) as (reader, _):
        port.take(head)
        await clock.pass_s(5, lambda: port.take(b"200\r\n%b\r\n" % (b" " * 512)))
        port.take(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_BODY), _BODY))
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 201 ")
        port.take(b"DELETE /nowhere HTTP/1.1\r\nHost: larder\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 404 ")
        await clock.pass_s(58, lambda: port.take(b"400\r\n%b\r\n" % (b" " * 1_024)))
        assert not port.connections[-1].transport.is_closing()
        await clock.pass_s(3, lambda: port.take(b"400\r\n%b\r\n" % (b" " * 1_024)))
        assert await reader.read() == b""  # the request had its answer
    assert _closed(service) == {"body_timeout": 1}


async def test_time_in_which_the_server_reads_nothing_does_not_count(port: Port, clock: Clock) -> None:
    """A body that waits behind a request under way is not late."""
    async with connection(port) as (reader, _):
        port.take(_PUT + _LENGTH + _BODY[:20])
        await _settled()
        port.connections[-1].flow.pause_reading()
        await clock.pass_s(100)
        port.connections[-1].flow.resume_reading()
        port.take(_BODY[20:])
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 201 ")


async def test_idle_connection(service: Service, port: Port, clock: Clock) -> None:
    """It is closed after its time, which each request begins anew."""
    async with connection(port) as (reader, writer):
        for _ in range(2):
            writer.write(_GET)
            await answer_of(reader)
            await clock.pass_s(74.5)
            assert not port.connections[-1].transport.is_closing()
        await clock.pass_s(1.5)
        assert await reader.read() == b""
    assert _closed(service) == {"idle": 1}


async def test_answer_that_is_not_read(service: Service, port: Port, clock: Clock) -> None:
    """A client that reads nothing loses its connection, also when that was about to be closed."""
    page = b"GET /docs HTTP/1.1\r\nHost: larder\r\n\r\n"
    async with connection(port) as (reader, writer):
        transport = port.connections[-1].transport
        client = cast("asyncio.Transport", writer.transport)
        client.pause_reading()
        while not transport.get_write_buffer_size():
            port.take(page)
            await _settled()
        transport.close()
        await clock.pass_s(30)
        assert service.requests.connections.open == 1
        await clock.pass_s(1.5)
        assert service.requests.connections.open == 0
        with suppress(ConnectionError):
            client.resume_reading()
            await reader.read()
    assert _closed(service) == {"unread": 1}


async def test_connections_are_counted(service: Service, port: Port) -> None:
    """Those that are open, until they are closed."""
    stats = service.requests.connections
    async with connection(port):
        async with connection(port):
            assert stats.open == 2
        async with asyncio.timeout(10):
            while stats.open != 1:
                await asyncio.sleep(0)


async def test_pipeline_that_is_not_read_stays_small(service: Service, port: Port) -> None:
    """The requests that wait take their bytes, and not the many times larger objects made of them."""
    service.products.hot, service.products.held = True, []
    async with connection(port) as (_, writer):
        gc.collect()
        tracemalloc.start()
        try:
            port.take(_GET * (262_144 // len(_GET)))
            for _ in range(100):
                await asyncio.sleep(0)
            kept, _most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(port.connections[-1].pipeline) < 400
        writer.transport.abort()
    assert kept < 1_500_000


@pytest.mark.parametrize("body", [False, True])
async def test_pipeline_is_answered_whole(service: Service, port: Port, *, body: bool) -> None:
    """Nothing of what was kept unparsed is lost, also where a body is cut."""
    service.products.hot = True
    one = _PUT + _LENGTH + _BODY if body else _GET
    count = 200_000 // len(one)
    async with asyncio.timeout(60), connection(port) as (reader, _):
        port.take(one * count)
        answers = [await answer_of(reader) for _ in range(count)]
    assert {answer[9:12] for answer in answers} == ({b"201", b"200"} if body else {b"404"})


async def test_bytes_of_bodies_are_bounded(service: Service) -> None:
    """A body that would exceed what all bodies together may have is refused with 503; small and later ones are not."""
    limit, large = 100_000, FREE_BODY_BYTES + 60_000
    larder = service.app.state.larder
    settings = larder.settings.model_copy(update={"bodies_limit_bytes": limit, "body_limit_bytes": 1_000_000})
    service.app.state.larder = replace(larder, settings=settings)
    head = _PUT + b"Content-Length: %d\r\n\r\n"
    async with listen(service) as port, connection(port) as (first, writer):
        await _send(port, head % (large + len(_BODY)) + b" " * large)
        assert service.requests.connections.large_body_bytes == 60_000
        async with connection(port) as (reader, _):
            await _send(port, head % (large + len(_BODY)) + b" " * large)
            answer = await answer_of(reader)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in answer
            assert await reader.read() == b""
        async with connection(port) as (reader, _):
            port.take(head % len(_BODY) + _BODY)
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 201 ")
        writer.write(_BODY)
        assert (await answer_of(first)).startswith(b"HTTP/1.1 200 ")
        assert service.requests.connections.large_body_bytes == 0
        await _send(port, head % (large + len(_BODY)) + b" " * large)
        writer.transport.abort()
    assert service.requests.connections.large_body_bytes == 0
    assert _closed(service) == {"overloaded": 1}


async def _send(port: Port, content: bytes) -> None:
    for start in range(0, len(content), LIMIT):
        if port.connections[-1].transport.is_closing():
            return
        port.take(content[start : start + LIMIT])
        await _settled()


async def test_request_that_is_shed_costs_only_itself(service: Service, port: Port) -> None:
    """It gets a whole 503 that says when to come back; the connection goes on, also behind a body, and readiness is served."""
    load = service.app.state.larder.load
    async with connection(port) as (reader, _):
        load.pressure = CALM + 2.0
        for request in (
            b"GET /products HTTP/1.1\r\nHost: larder\r\n\r\n",
            _PUT + _LENGTH + _BODY,
            _PUT + b"Transfer-Encoding: chunked\r\n\r\n21\r\n" + _BODY + b"\r\n0\r\n\r\n",
        ):
            port.take(request)
            head, _, body = (await answer_of(reader)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 "), request
            assert json.loads(body)["type"] == "/problems/overloaded"
            assert int(head.lower().split(b"retry-after: ")[1].split(b"\r\n")[0]) in (1, 2, 3)
            assert b"connection: close" not in head.lower()
        port.take(_GET)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 404 "), "hits are shed last"
        load.pressure = CALM + 3.0
        port.take(_GET)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 503 ")
        port.take(b"GET /readyz HTTP/1.1\r\nHost: larder\r\n\r\n")
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        load.pressure = 0.0
        port.take(_PUT + _LENGTH + _BODY)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 201 ")
    assert "mug-red" in service.tables.rows
    assert service.app.state.larder.admission.refused["overloaded"] == 4


async def test_many_requests_that_wait_are_shed(service: Service, port: Port) -> None:
    """Each gets its 503, however many waited behind the request that was answered before them."""
    service.app.state.larder.load.pressure = CALM + 2.0
    listed = b"GET /products HTTP/1.1\r\nHost: larder\r\n\r\n"
    waiting = PIECE_BYTES // len(listed) - 1
    async with asyncio.timeout(20), connection(port) as (reader, _):
        port.take(b"GET /livez HTTP/1.1\r\nHost: larder\r\n\r\n" + waiting * listed)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        for _ in range(waiting):
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 503 ")
        port.take(b"GET /livez HTTP/1.1\r\nHost: larder\r\n\r\n")
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
    assert service.app.state.larder.admission.refused["overloaded"] == waiting


async def test_refusals_that_are_not_read_stay_few(service: Service, port: Port) -> None:
    """A client that only sends has the server stop reading; it gets the rest of its refusals as it reads."""
    service.app.state.larder.load.pressure = CALM + 2.0
    listed = b"GET /products HTTP/1.1\r\nHost: larder\r\n\r\n"
    sent = 2_000
    async with asyncio.timeout(20), connection(port) as (reader, writer):
        server = port.connections[-1]
        # What the kernel holds for the client is no memory of the process.
        server.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        writer.write(sent * listed)
        while not server.flow.read_paused:
            await asyncio.sleep(0)
        await _settled()
        assert server.transport.get_write_buffer_size() < 262_144
        for _ in range(sent):
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 503 ")
    assert service.app.state.larder.admission.refused["overloaded"] == sent

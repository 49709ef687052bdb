"""A read whose head is known gets the answer that a parsed one gets, whatever came before it on its connection."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.access.key_ring import KeyRing
from app.access.rates import Limits
from app.api.admission import PlainHead
from app.api.load import CALM
from app.cache.ports import Reading
from app.server.timeouts import Wait
from tests.api.conftest import Service
from tests.api.wire import Port, answer_of, connection, listen
from tests.fakes.keys import MemoryKeys
from tests.fakes.products import EPOCH, INCARNATION

_PLAIN = b"GET /products/mug HTTP/1.1\r\nHost: larder\r\n\r\n"
_OTHER = b"GET /products/pot HTTP/1.1\r\nHost: larder\r\n\r\n"
_BARE_LINES = b"GET /products/mug HTTP/1.1\nHost: larder\n\n" + _OTHER
"""Is refused."""
_REQUESTS = st.sampled_from(
    [
        _PLAIN,
        _OTHER,
        b'GET /products/mug HTTP/1.1\r\nHost: larder\r\nIf-None-Match: "1"\r\n\r\n',
        b"GET /products/mug HTTP/1.1\r\nHost: larder\r\nCache-Control: no-cache\r\n\r\n",
        b"GET /products/mug HTTP/1.1\r\nHost: larder\r\nContent-Length: 0\r\n\r\n",
        b"GET /products/mug HTTP/1.1\r\nHost: larder\r\nContent-Length: %d\r\n\r\n%b" % (len(_OTHER), _OTHER),
        b"GET /products/mug HTTP/1.1\r\nHost: larder\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (len(_OTHER), _OTHER),
        b"GET /products/mug HTTP/1.1\r\nHost: larder\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"GET /products/mug HTTP/1.1\r\nX: " + _OTHER,
        b"GET /products/never HTTP/1.1\r\nHost: larder\r\n\r\n",
        b"GET /products/.. HTTP/1.1\r\nHost: larder\r\n\r\n",
        b"HEAD /products/mug HTTP/1.1\r\nHost: larder\r\n\r\n",
        b"\r\n" + _PLAIN,
        _BARE_LINES,
        b"GET /products/mug HTTP/1.1\r\nHost: elsewhere..\r\n\r\n",
        b"PUT /products/cup HTTP/1.1\r\nHost: larder\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx",
    ]
)
_CUTS = st.lists(st.sampled_from([b"GET ", b"Host", b"\r\n\r\n", b" HTTP"]), max_size=2)
_IDENTITY = re.compile(rb"x-request-id: [0-9a-f]{32}\r\n")


class _Forgetful(dict[Any, Any]):
    """A table of known heads that keeps none."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://larder") as client:
        for product_id in ("mug", "pot"):
            await client.post("/products", json={"id": product_id, "name": "Mug", "price_cents": 5})
    service.products.hot = True
    for product_id in ("mug", "pot"):
        await service.products.get(product_id)
    async with listen(service) as port:
        yield port


def _pieces(requests: Sequence[bytes], cuts: Sequence[bytes], *, together: bool) -> list[bytes]:
    """Return the requests one by one or together, cut before some of the marks."""
    pieces = [b"".join(requests)] if together else list(requests)
    for mark in cuts:
        pieces = [part for piece in pieces for part in re.split(b"(?=%b)" % re.escape(mark), piece) if part]
    return pieces


async def _answers(port: Port, pieces: Sequence[bytes], *, at_once: bool) -> bytes:
    """Return all that the server answers until it closes the connection, without the ids of the requests."""
    async with asyncio.timeout(20), connection(port) as (reader, _):
        for piece in (*pieces, _PLAIN[:-2] + b"Connection: close\r\n\r\n"):
            if not port.connections[-1].transport.is_closing():
                port.take(piece)
            if not at_once:
                for _ in range(5):
                    await asyncio.sleep(0)
        answers = await reader.read()
    return _IDENTITY.sub(b"", answers)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(_REQUESTS, min_size=1, max_size=6), cuts=_CUTS, together=st.booleans(), at_once=st.booleans())
@example(requests=[_PLAIN, b"GET /products/mug HTTP/1.1\r\nX: " + _OTHER], cuts=[b"GET "], together=False, at_once=False)
@example(requests=[_PLAIN, _OTHER, _PLAIN], cuts=[], together=False, at_once=True)
async def test_known_heads_change_no_answer(
    service: Service, port: Port, *, requests: list[bytes], cuts: list[bytes], together: bool, at_once: bool
) -> None:
    """Pipelined, cut, beside bodies that look like requests: a server that knows heads answers as one that knows none."""
    # A refused request that arrives before an earlier one is answered has no answer of its own: that depends on time alone.
    pieces = _pieces([one for one in requests if not (at_once and one == _BARE_LINES)], cuts, together=together)
    answers = []
    tables: list[dict[bytes, PlainHead]] = [_Forgetful(), {}]
    for table in tables:
        service.app.state.larder.admission.plain_heads = table
        service.products.slots.clear()
        for product_id in ("mug", "pot"):
            await service.products.get(product_id)
        await _answers(port, [_PLAIN], at_once=False)
        answers.append(await _answers(port, pieces, at_once=at_once))
    assert answers[1] == answers[0]


async def test_the_second_read_is_not_parsed(service: Service, port: Port) -> None:
    """Otherwise the comparison above would compare the parser with itself. Other products and connections count, too."""
    for number in range(2):
        async with connection(port) as (reader, writer):
            for request in (_PLAIN, _OTHER, _PLAIN):
                writer.write(request)
                assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
            assert (port.connections[-1].scope is None) == (number > 0)
            assert number > 0 or port.connections[-1].scope["path"] == "/products/mug"
    assert service.requests.requests["GET", "/products/{product_id}", 200] == 6
    assert port.state.total_requests == 6


@pytest.mark.guarantee("R1")
async def test_a_miss_with_a_known_head_hands_on_its_reading(service: Service, port: Port) -> None:
    """The endpoint gets what was read for this request, and the next request of the connection does not."""
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        await answer_of(reader)
        service.products.slots.clear()
        for request in (_OTHER, _OTHER[:-2] + b"Cache-Control: no-cache\r\n\r\n"):
            writer.write(request)
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
    assert [read["reading"] for read in service.products.reads[-2:]] == [Reading(EPOCH, [None], INCARNATION), None]


@pytest.mark.parametrize("cached", [True, False])
async def test_what_arrives_meanwhile_is_answered_afterwards(service: Service, port: Port, *, cached: bool) -> None:
    """It is kept unparsed, no more is read from the client, and the answers have the order of the requests."""
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        await answer_of(reader)
        held: list[Callable[[], None]] = []
        service.products.held = held
        if not cached:
            service.products.slots.clear()
        port.take(_OTHER)
        port.take(_PLAIN)
        port.take(_OTHER)
        while not held:
            await asyncio.sleep(0)
        assert port.connections[-1].flow.read_paused
        service.products.held = None
        held.pop()()
        answers = [await answer_of(reader) for _ in range(3)]
    assert [re.findall(rb'"id":"(\w+)"', answer) for answer in answers] == [[b"pot"], [b"mug"], [b"pot"]]
    assert not port.connections[-1].flow.read_paused


async def test_a_read_under_way_is_no_wait_for_the_client(service: Service, port: Port) -> None:
    """While it is answered, no time limit counts; afterwards the connection is idle, from each read anew."""
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        await answer_of(reader)
        held: list[Callable[[], None]] = []
        service.products.held = held
        port.take(_OTHER)
        server = port.connections[-1]
        while not held:
            await asyncio.sleep(0)
        assert (server.waiting(), server.idle()) == (None, None)
        service.products.held = None
        held.pop()()
        await answer_of(reader)
        first = server.waiting()
        assert first is not None
        assert first.kind is Wait.IDLE
        assert server.idle() is not None
        port.take(_PLAIN)
        await answer_of(reader)
        second = server.waiting()
        assert second is not None
        assert (second.kind, second.subject is first.subject) == (Wait.IDLE, False)


@pytest.mark.parametrize("cached", [True, False])
async def test_a_stop_lets_the_read_under_way_finish_as_the_last(service: Service, port: Port, *, cached: bool) -> None:
    """It is answered, hit or miss, and its connection is closed, so that no client holds up the stop."""
    async with asyncio.timeout(20), connection(port) as (reader, writer):
        writer.write(_PLAIN)
        await answer_of(reader)
        held: list[Callable[[], None]] = []
        service.products.held = held
        if not cached:
            service.products.slots.clear()
        port.take(_OTHER)
        while not held:
            await asyncio.sleep(0)
        port.connections[-1].shutdown()
        service.products.held = None
        held.pop()()
        answer = await answer_of(reader)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert await reader.read() == b""


async def test_a_known_head_is_shed_and_refused_like_another(service: Service, port: Port) -> None:
    """Under pressure the application's ways decide."""
    async with connection(port) as (reader, writer):
        writer.write(_PLAIN)
        await answer_of(reader)
        service.app.state.larder.load.pressure = CALM + 3.0
        writer.write(_PLAIN)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 503 ")


async def test_the_key_is_checked_for_each_request(service: Service, port: Port) -> None:
    """A known head opens nothing after its key was revoked, and no other head has its key."""
    source = MemoryKeys()
    authorization = source.add()
    ring = KeyRing([source], limits=Limits())
    assert await ring.renew()
    service.app.state.larder.admission.ring = ring
    head = b"Authorization: " + authorization + b"\r\nX: "
    async with connection(port) as (reader, writer):
        # The second piece looks like a request of its own, but is the rest of the first one's head.
        port.take(b"GET /products/mug HTTP/1.1\r\n" + head)
        port.take(_OTHER)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        writer.write(_OTHER)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 401 ")
        keyed = _OTHER[:-2] + b"Authorization: " + authorization + b"\r\n\r\n"
        for _ in range(2):
            writer.write(keyed)
            assert (await answer_of(reader)).startswith(b"HTTP/1.1 200 ")
        source.revoke("k0")
        assert await ring.renew()
        writer.write(keyed)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 401 ")

"""Hits of a server that logs or traces requests: the server's protocol on a socket, over real servers."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.server.http_server import Server
from app.server.known_heads import KnownHeads
from app.server.observed_reads import ObservedReads
from app.settings import Settings
from tests.api.real import PATIENT, application, proven
from tests.api.wire import listen_for
from tests.harness.otlp import collector

_MUG = {"id": "mug", "name": "Mug", "price_cents": 1299, "stock": 40, "reorder_point": 10}


@asynccontextmanager
async def _served(*servers: str, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service on a socket; the product is cached."""
    async with (
        application(*servers, **(PATIENT | settings)) as app,
        listen_for(app, ObservedReads) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port.number}") as client,
    ):
        await proven(client)
        await client.post("/products", json=_MUG)
        yield client


async def _hits(client: httpx.AsyncClient, number: int) -> list[httpx.Response]:
    answers = [await client.get("/products/mug") for _ in range(number)]
    assert {(answer.status_code, answer.headers["Cache-Status"]) for answer in answers} == {(200, "larder; hit")}
    return answers


async def test_every_hit_has_a_line(
    database_url: str, redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a share of 100 %, whether the head was parsed or known; the fields say what the answer said."""
    async with _served(database_url, redis_url, namespace, LOG_REQUESTS_PERCENT="100") as client:
        with caplog.at_level(logging.INFO, "larder.request"):
            caplog.clear()
            answers = await _hits(client, 3)
    lines = {vars(record)["larder.request.id"]: vars(record) for record in caplog.records}
    assert list(lines) == [answer.headers["X-Request-Id"] for answer in answers]
    for line in lines.values():
        assert (line["http.request.method"], line["http.route"]) == ("GET", "/products/{product_id}")
        assert (line["url.path"], line["http.response.status_code"]) == ("/products/mug", 200)
        assert (line["larder.cache.status"], line["network.peer.address"]) == ("larder; hit", "127.0.0.1")
        assert 0 < line["larder.redis.duration"] <= line["http.server.request.duration"] < 10


async def test_every_hit_has_a_trace(
    database_url: str, redis_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a share of 100 %, its number is the request's id, and its Redis round trip is in it. A line names its span."""
    percent = {"TRACE_PERCENT": "100", "LOG_REQUESTS_PERCENT": "100"}
    async with (
        collector() as taken,
        _served(database_url, redis_url, namespace, TRACES_URL=taken.url, **percent) as client,
    ):
        with caplog.at_level(logging.INFO, "larder.request"):
            caplog.clear()
            answers = await _hits(client, 3)
    lines = [vars(record) for record in caplog.records if record.name == "larder.request"]
    for answer, line in zip(answers, lines, strict=True):
        number = answer.headers["X-Request-Id"]
        [root, trip] = sorted((span for span in taken.spans if span.trace_id == number), key=lambda span: span.parent_id)
        assert (root.name, root.kind, root.parent_id) == ("GET /products/{product_id}", "SERVER", "")
        assert (root.attributes["larder.cache.status"], root.attributes["http.response.status_code"]) == ("larder; hit", "200")
        assert (trip.name, trip.kind, trip.parent_id) == ("redis read", "CLIENT", root.span_id)
        assert (line["trace_id"], line["span_id"]) == (number, root.span_id)
        for span in (root, trip):
            assert 0 < span.lasted_ms < 10_000


async def test_traced_miss_is_told_by_the_application(database_url: str, redis_url: str, namespace: str) -> None:
    """A read that was drawn and is no hit has all its steps; one with a ``traceparent`` follows that, not the share."""
    async with (
        collector() as taken,
        _served(database_url, redis_url, namespace, TRACES_URL=taken.url, TRACE_PERCENT="100") as client,
    ):
        await client.get("/products/none")
        await client.delete("/cache/products/none")
        miss = await client.get("/products/none")  # its head is known
        unwanted = await client.get("/products/mug", headers={"traceparent": f"00-{'4b' * 16}-{'0f' * 8}-00"})
    names = {span.name for span in taken.spans if span.trace_id == miss.headers["X-Request-Id"]}
    assert {"GET /products/{product_id}", "products.get", "cache.read", "cache.load", "postgresql load"} <= names
    assert unwanted.headers["X-Request-Id"] == "4b" * 16
    assert "4b" * 16 not in {span.trace_id for span in taken.spans}


async def test_share_of_hits(database_url: str, redis_url: str, namespace: str) -> None:
    """About half of 200 hits are traced with a share of 50 %, and what was drawn for a miss is not drawn again."""
    async with (
        collector() as taken,
        _served(database_url, redis_url, namespace, TRACES_URL=taken.url, TRACE_PERCENT="50") as client,
    ):
        hits = {(await client.get("/products/mug")).headers["X-Request-Id"] for _ in range(200)}
        misses = {(await client.get(f"/products/none-{number}")).headers["X-Request-Id"] for number in range(200)}
    traced = {span.trace_id for span in taken.spans}
    assert 44 <= len(traced & hits) <= 156
    # The bounds are eight and four standard deviations away. If a miss were asked twice, 150 would be traced.
    assert 44 <= len(traced & misses) <= 130


def test_other_servers_do_not_ask() -> None:
    """Unless something is on, the connections are those that have no code for it."""
    assert _protocol() is KnownHeads
    assert _protocol(LARDER_LOG_REQUESTS_PERCENT="1") is ObservedReads
    assert _protocol(LARDER_TRACES_URL="http://collector:4318/v1/traces") is ObservedReads


def _protocol(**settings: str) -> object:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        """Serve nobody."""

    return Server(nothing, Settings.from_env(settings)).config.http_protocol_class

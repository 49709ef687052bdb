"""Lines about requests: which requests have one, and what it says."""

import asyncio
import logging

import httpx
import pytest

from app.cache.errors import SourceUnavailable
from app.cache.tracing import Place
from app.cache.write_through import UNREACHABLE, Read, Status
from app.telemetry.request_lines import MOST_PER_S, Answered, RequestLines
from app.telemetry.telemetry import NOT_SAMPLED, Telemetry
from tests.api.conftest import Service
from tests.api.real import PATIENT, proven
from tests.api.real import service as service_of

_HIT = Answered("0af7", "GET", "/products/{product_id}", "/products/mug", 200, 0.0123, "till", "k0", "::1", "larder; hit")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is written about requests."""
    caplog.set_level(logging.INFO, "larder.request")
    return caplog


@pytest.mark.parametrize(
    ("answered", "level"),
    [
        (_HIT, None),
        (_HIT._replace(status=404), None),
        (_HIT._replace(cache_status="larder; fwd=bypass"), None),
        (_HIT._replace(cache_status="larder; fwd=bypass; detail=switched-off"), None),
        (_HIT._replace(status=500), logging.WARNING),
        (_HIT._replace(status=0), logging.WARNING),
        (_HIT._replace(status=429), logging.INFO),
        (_HIT._replace(status=421), logging.INFO),
        (_HIT._replace(cache_status="larder; fwd=bypass; detail=redis-unavailable"), logging.WARNING),
        (_HIT._replace(cache_status="larder; fwd=miss; detail=unverified"), logging.WARNING),
    ],
)
def test_kinds(lines: pytest.LogCaptureFixture, answered: Answered, level: int | None) -> None:
    """A failure, a refusal and an answer that was out of order have a line; whatever is well has none."""
    RequestLines().write(answered, {})
    assert [record.levelno for record in lines.records] == ([] if level is None else [level])


def test_settled_write(lines: pytest.LogCaptureFixture) -> None:
    """A write that had to settle is out of order, though it was answered with 200."""
    RequestLines().write(_HIT._replace(method="PATCH", cache_status=""), {Place.SOURCE: 0.01, Place.AUDIT: 1.5})
    assert vars(lines.records[0])["larder.settle.duration"] == 1.5


def test_flood(lines: pytest.LogCaptureFixture) -> None:
    """Ten lines a second of each kind; the next one says how many were left out. The share that was asked for is not cut."""
    now = 100.0
    log = RequestLines(clock=lambda: now)
    for _ in range(1_000):
        log.write(_HIT._replace(status=503), {})
    log.write(_HIT._replace(status=401), {})
    now += 1
    log.write(_HIT._replace(status=503), {})
    said = [record.getMessage() for record in lines.records]
    assert len(said) == MOST_PER_S + 2
    assert said[-1] == "GET '/products/mug': 503 in 12.3 ms (990 similar lines left out)"
    assert vars(lines.records[-1])["larder.lines.left_out"] == 990
    for _ in range(1_000):
        log.write(_HIT._replace(status=503), {}, sampled=True)
    assert len(lines.records) == MOST_PER_S + 2 + 1_000


def test_share() -> None:
    """One request in a hundred, of 1 %; none, of a share of nothing."""
    draws = iter([*(number / 100 for number in range(100)), 0.0])
    telemetry = Telemetry(line_percent=1, draw=lambda: next(draws))
    assert [telemetry.sample().line for _ in range(100)] == [True] + [False] * 99
    assert Telemetry(draw=lambda: next(draws)).sample() is NOT_SAMPLED


def test_a_line_has_the_fields_of_the_conventions(lines: pytest.LogCaptureFixture) -> None:
    """Names of the semantic conventions; what has no value is left out, and what a client chose cannot break the line."""
    RequestLines().write(
        _HIT._replace(path="/products/a\nb", status=403, cache_status="", problem="forbidden", reason="no\nscope"),
        {Place.STORE: 0.0021},
        span_id="b7ad",
        sampled=True,
    )
    [record] = lines.records
    assert record.getMessage() == r"GET '/products/a\nb': 403 in 12.3 ms, forbidden: 'no\nscope'"
    assert {name: value for name, value in vars(record).items() if "." in name or name.endswith("_id")} == {
        "larder.request.id": "0af7",
        "http.request.method": "GET",
        "http.route": "/products/{product_id}",
        "url.path": "/products/a\nb",
        "http.response.status_code": 403,
        "http.server.request.duration": 0.0123,
        "larder.client": "till",
        "larder.key.id": "k0",
        "network.peer.address": "::1",
        "error.type": "forbidden",
        "larder.redis.duration": 0.0021,
        "trace_id": "0af7",
        "span_id": "b7ad",
    }


async def test_failed_request(lines: pytest.LogCaptureFixture, service: Service, client: httpx.AsyncClient) -> None:
    """A 503 has the type of its problem, and the reason that the client is not told."""
    service.products.fault = SourceUnavailable("connection refused")
    answer = await client.get("/products/mug")
    line = vars(lines.records[0])
    assert (answer.status_code, line["http.response.status_code"]) == (503, 503)
    assert (line["error.type"], line["larder.request.id"]) == ("database-unavailable", answer.headers["X-Request-Id"])
    assert line["message"].endswith("database-unavailable: connection refused")
    assert "connection refused" not in answer.text


@pytest.mark.usefixtures("mug")
async def test_degraded_request(lines: pytest.LogCaptureFixture, service: Service, client: httpx.AsyncClient) -> None:
    """A read past a Redis that is away has a line, although it was answered well; one that is a hit has none."""
    await client.get("/products/mug-blue")
    assert lines.records == []
    state = (await service.products.get("mug-blue")).state
    service.products.served[""] = Read(state, Status.BYPASS, UNREACHABLE)
    assert (await client.get("/products/mug-blue")).status_code == 200
    [line] = map(vars, lines.records)
    assert (line["levelno"], line["larder.cache.status"]) == (
        logging.WARNING,
        "larder; fwd=bypass; detail=redis-unavailable",
    )


async def test_waits(lines: pytest.LogCaptureFixture, database_url: str, redis_url: str, namespace: str) -> None:
    """A miss and a write say how long they waited for Redis and for PostgreSQL, in batches, too."""
    async with service_of(database_url, redis_url, namespace, LOG_REQUESTS_PERCENT="100", **PATIENT) as client:
        await proven(client)
        lines.clear()
        await client.post("/products", json={"id": "mug", "name": "Mug", "price_cents": 1, "stock": 1})
        await asyncio.gather(*(client.get(f"/products/none-{number % 3}") for number in range(9)))
        await client.get("/products/mug")
    waits = [
        (vars(line).get("larder.redis.duration", 0), vars(line).get("larder.postgresql.duration", 0)) for line in lines.records
    ]
    durations = [vars(line)["http.server.request.duration"] for line in lines.records]
    assert len(waits) == 11
    assert all(redis > 0 for redis, _ in waits)
    assert [postgres > 0 for _, postgres in waits] == [True] * 10 + [False]
    assert all(redis + postgres <= duration + 2e-6 for (redis, postgres), duration in zip(waits, durations, strict=True))

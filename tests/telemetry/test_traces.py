"""Traces, as a collector receives them: real servers, and the whole application."""

import asyncio
import socket
import time

import httpx

from app.telemetry.otlp import OtlpSpans
from tests.api.real import PATIENT, proven, service
from tests.harness.otlp import Collector, Received, collector

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PARENT = "00f067aa0ba902b7"
_MORE_SPANS_THAN_ARE_KEPT = 5_000
_MUG = {"id": "mug", "name": "Mug", "price_cents": 1299, "stock": 40, "reorder_point": 10}


def _request(taken: Collector, answer: httpx.Response) -> Received:
    """The first span of a request."""
    [root] = [span for span in taken.spans if span.trace_id == answer.headers["X-Request-Id"] and span.kind == "SERVER"]
    return root


def _below(taken: Collector, root: Received) -> list[list[str]]:
    """The paths from a request's span to every span below it."""
    found = [taken.path(span)[1:] for span in taken.spans if span.trace_id == root.trace_id and span is not root]
    return sorted(found)


async def test_hit_miss_and_joined_write(database_url: str, redis_url: str, namespace: str) -> None:
    """The spans lead from the endpoint to Redis and PostgreSQL. Who shares a round trip is linked with its one span."""
    async with (
        collector() as taken,
        service(database_url, redis_url, namespace, TRACES_URL=taken.url, TRACE_PERCENT="100", **PATIENT) as client,
    ):
        await proven(client)
        created = await client.post("/products", json=_MUG)
        hit = await client.get("/products/mug", headers={"traceparent": f"00-{_TRACE}-{_PARENT}-01"})
        await client.delete("/cache/products/mug")
        miss = await client.get("/products/mug")
        sale = {"lines": [{"product_id": "mug", "delta": -1}], "reason": "sale"}
        sales = await asyncio.gather(*(client.post("/stock/adjustments", json=sale) for _ in range(5)))
    assert {answer.status_code for answer in (created, hit, miss, *sales)} == {200, 201}

    root = _request(taken, hit)
    assert (root.trace_id, root.parent_id, root.name) == (_TRACE, _PARENT, "GET /products/{product_id}")
    assert (root.attributes["larder.cache.status"], root.attributes["http.response.status_code"]) == ("larder; hit", "200")
    read = ["products.get", "cache.read"]
    assert _below(taken, root) == [read[:1], read, [*read, "redis read"]]

    root = _request(taken, miss)
    assert (root.parent_id, root.attributes["larder.cache.status"]) == ("", "larder; fwd=miss; stored")
    load = [*read, "cache.load"]
    places = ("postgresql load", "redis lease", "redis publish")
    assert _below(taken, root) == [read[:1], read, load, *([*load, place] for place in places), [*read, "redis read"]]

    transactions = taken.named("cache.write")
    shared = next(span for span in transactions if span.links)
    waiting = [span for span in taken.named("products.write") if shared.span_id in span.links]
    assert len(waiting) == int(shared.attributes["larder.joined"]) - 1 == len(shared.links)
    assert {span.span_id for span in waiting} == set(shared.links)
    write = ["products.write", "cache.write"]
    assert taken.path(next(span for span in taken.named("postgresql transaction") if shared.trace_id == span.trace_id))[1:] == [
        *write,
        "postgresql transaction",
    ]
    assert {span.attributes["db.system.name"] for span in taken.spans if span.kind == "CLIENT"} == {"redis", "postgresql"}
    assert taken.resources[0]["service.name"] == "larder"


async def test_settled_write(database_url: str, namespace: str) -> None:
    """Redis is away: the write is committed, and its trace says that it waited for the end of every fence."""
    short = {"FENCE_TTL_MS": "200", "FENCE_TTL_MAX_MS": "200", "AUDIT_INTERVAL_MS": "50"}
    async with collector() as taken:
        nobody = "redis://127.0.0.1:1/0"
        async with service(database_url, nobody, namespace, TRACES_URL=taken.url, TRACE_PERCENT="100", **short) as client:
            created = await client.post("/products", json=_MUG)
    root = _request(taken, created)
    assert created.status_code == 201
    settle = [span for span in taken.named("cache.settle") if span.trace_id == root.trace_id]
    assert [taken.path(span)[1:] for span in settle] == [["products.write", "cache.settle"]]


async def test_share_and_traceparent_decide(database_url: str, redis_url: str, namespace: str) -> None:
    """No request is traced of a share of 0 %, but one whose client records the trace; one whose client does not, never is."""
    async with (
        collector() as taken,
        service(database_url, redis_url, namespace, TRACES_URL=taken.url, TRACE_PERCENT="0", **PATIENT) as client,
    ):
        await client.get("/products/none")
        await client.get("/products/none", headers={"traceparent": f"00-{_TRACE}-{_PARENT}-00"})
        await client.get("/products/none", headers={"traceparent": f"00-{_TRACE}-{_PARENT}-01"})
    assert {span.trace_id for span in taken.spans} == {_TRACE}
    assert len([span for span in taken.spans if span.kind == "SERVER"]) == 1


def test_collector_that_is_away_delays_nobody() -> None:
    """Requests go on when more spans wait than are kept; a stop gives up what is left after two seconds."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        spans = OtlpSpans(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", "1")
        began = time.monotonic()
        for _ in range(_MORE_SPANS_THAN_ARE_KEPT):
            spans.of_request(_TRACE, None).answer("GET", {}, failed=False)
        spans.close()
    assert time.monotonic() - began < 8  # one attempt of the exporter takes ten

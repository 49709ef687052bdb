"""What holds for every answer: its id, its count, and silence about the inside."""

import asyncio
import re

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.metrics import RequestStats
from app.api.middleware import OutermostLayer, parent_of
from app.postgres.errors import DatabaseUnavailable
from app.telemetry.spans import Parent
from app.telemetry.telemetry import Telemetry
from tests.api.conftest import Service
from tests.api.problem import problem

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "traceparent",
    [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-what-comes-later"],
)
async def test_the_id_of_a_valid_trace_is_the_answers(client: httpx.AsyncClient, traceparent: str) -> None:
    """Success and error alike; a later version of the header may be longer."""
    for path in ("/livez", "/none"):
        answer = await client.get(path, headers={"traceparent": traceparent})
        assert answer.headers["X-Request-Id"] == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        TRACE,
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"cc-{TRACE}-{PARENT}-01.more",
    ],
)
async def test_an_invalid_trace_is_ignored(client: httpx.AsyncClient, traceparent: str) -> None:
    """The answer has an id of its own, and another one each time."""
    ids = {(await client.get("/livez", headers={"traceparent": traceparent})).headers["X-Request-Id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", identity) and identity != TRACE for identity in ids)


def test_two_traces_are_none() -> None:
    """A header that may come once, sent twice, is invalid."""
    line = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    assert parent_of([line]) == Parent(TRACE, PARENT, sampled=True)
    assert parent_of([line, line]) is None


async def test_requests_are_counted_by_route_and_status(service: Service, client: httpx.AsyncClient) -> None:
    """Templates, not paths; a path without a route and a method of somebody's own have one name each."""
    for method, path in (
        ("GET", "/products/a"),
        ("HEAD", "/products/b"),
        ("GET", "/none"),
        ("BREW", "/products"),
        ("GET", "/products"),
    ):
        await client.request(method, path)
    assert dict(service.requests.requests) == {
        ("GET", "/products/{product_id}", 404): 1,
        ("HEAD", "/products/{product_id}", 404): 1,
        ("GET", "unmatched", 404): 1,
        ("other", "/products", 405): 1,
        ("GET", "/products", 200): 1,
    }
    assert sum(service.requests.durations["/products/{product_id}"].counts) == 2


async def test_metrics_show_what_was_counted(service: Service, client: httpx.AsyncClient) -> None:
    """Plain counters become Prometheus families when somebody asks."""
    service.stats.hits = 3
    service.stats.payload_bytes = 70
    service.stats.written_keys["no"] = 4
    service.stats.store_read.observe(0.002)
    service.store.up = False
    service.store.failures = 2
    await client.get("/products/a")
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    for line in (
        'larder_cache_reads_total{namespace="products",result="hit"} 3.0',
        'larder_cache_store_up{namespace="products"} 0.0',
        'larder_cache_store_failures_total{namespace="products"} 2.0',
        'larder_cache_publishes_total{namespace="products",outcome="lease_deleted"} 0.0',
        'larder_cache_publishes_total{namespace="products",outcome="deleted"} 0.0',
        'larder_cache_payload_bytes_total{namespace="products"} 70.0',
        'larder_cache_written_keys_total{namespace="products",read="no"} 4.0',
        'larder_cache_call_seconds_bucket{call="store_read",le="0.001",namespace="products"} 0.0',
        'larder_cache_call_seconds_bucket{call="store_read",le="0.0025",namespace="products"} 1.0',
        'larder_cache_call_seconds_bucket{call="store_read",le="+Inf",namespace="products"} 1.0',
        'larder_cache_call_seconds_sum{call="store_read",namespace="products"} 0.002',
        'larder_http_requests_total{method="GET",route="/products/{product_id}",status="404"} 1.0',
        'larder_http_request_seconds_count{route="/products/{product_id}"} 1.0',
    ):
        assert line in lines


async def test_readiness_asks_postgres_and_only_reports_redis(service: Service, client: httpx.AsyncClient) -> None:
    """A dead Redis does not take the service out of rotation."""
    service.store.up = False
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "postgresql": "up", "redis": "down"})
    assert (await client.get("/livez")).json() == {"status": "alive"}
    service.database.fault = DatabaseUnavailable("host and user")
    assert (await client.get("/readyz")).status_code == 200, "it is found out once a second"
    service.clock.now += 1
    problem(await client.get("/readyz"), "database-unavailable")
    assert (await client.get("/livez")).json() == {"status": "alive"}


async def _raw(service: Service, method: str, path: str, message: Message) -> list[Message]:
    """What the application sends to its server when the server gives it `message`."""
    sent: list[Message] = []

    async def receive() -> Message:
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"larder"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await service.app(scope, receive, send)
    return sent


async def test_head_sends_no_body_to_the_server(service: Service) -> None:
    """No server is relied on to leave it out; Content-Length is that of the GET."""
    empty = {"type": "http.request", "body": b"", "more_body": False}
    get, head = [await _raw(service, method, "/livez", empty) for method in ("GET", "HEAD")]
    assert (get[1]["body"], head[1]["body"]) == (b'{"status":"alive"}', b"")
    assert dict(head[0]["headers"])[b"content-length"] == dict(get[0]["headers"])[b"content-length"]


async def test_a_client_that_leaves_is_no_fault(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A body that breaks off is not logged as an error, and nothing is answered to nobody."""
    assert await _raw(service, "POST", "/products", {"type": "http.disconnect"}) == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert service.requests.requests["POST", "/products", 0] == 1


async def test_a_fault_after_the_answer_began_breaks_it_off() -> None:
    """Half an answer must not look like a whole one: the server gets the exception and closes the connection."""

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("the inside")

    requests = RequestStats()
    transport = httpx.ASGITransport(app=OutermostLayer(half, requests, Telemetry()))
    async with httpx.AsyncClient(transport=transport, base_url="http://larder") as client:
        with pytest.raises(RuntimeError, match="the inside"):
            await client.get("/")
    assert requests.requests["GET", "unmatched", 200] == 1


@pytest.mark.parametrize(("method", "slug"), [("GET", "overloaded"), ("POST", "outcome-unknown")])
async def test_a_cancelled_request_is_counted_and_answered(method: str, slug: str) -> None:
    """Stopping the service ends what is under way: a read was not done, a write may have been; neither is a bare 500."""
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        raise AssertionError

    began = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        began.set()
        await asyncio.Event().wait()

    requests = RequestStats()
    scope = {"type": "http", "method": method, "path": "/", "raw_path": b"/", "headers": []}
    request = asyncio.create_task(OutermostLayer(endless, requests, Telemetry())(scope, nothing, keep))
    await began.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert sent[0]["status"] == httpx.codes.SERVICE_UNAVAILABLE
    assert slug.encode() in sent[1]["body"]
    assert requests.requests[method, "unmatched", 503] == 1

"""The hot read and the ordinary endpoint answer alike."""

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Service

_IDS = st.sampled_from(["mug-blue", "mug-gone", "mug:2.x", "never", "a b", "..", "", "mug-blue/stock", "%6dug-blue"])
_TAGS = st.sampled_from(['"1"', '"2"', 'W/"1"', '"1", "2"', "*", '"x"', "1", ""])
_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "If-None-Match": _TAGS,
        "If-Match": _TAGS,
        "Cache-Control": st.sampled_from(["no-cache", "stale-if-error=5", "max-age=0", "no-store"]),
        "Accept": st.sampled_from(["*/*", "text/html"]),
        "Range": st.just("bytes=0-3"),
        "traceparent": st.sampled_from(["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]),
    },
)
_QUERIES = st.sampled_from(["", "?", "?x=1"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(["GET", "HEAD"]), product_id=_IDS, query=_QUERIES, headers=_HEADERS, cached=st.booleans())
async def test_both_ways_give_the_same_answer(
    service: Service, method: str, product_id: str, query: str, headers: dict[str, str], *, cached: bool
) -> None:
    """Status, headers (but for the request's id) and body are the same, for hits, misses and refusals."""
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://larder") as client:
        await _catalogue(client)
        answers = []
        for in_front in (False, True):
            service.products.hot = in_front
            service.products.cached = {"mug-blue", "mug-gone", "mug:2.x"} if cached else set()
            answers.append(await client.request(method, f"/products/{product_id}{query}", headers=headers))
        service.products.hot = False
    ordinary, hot = answers
    traced = "traceparent" in headers
    assert (hot.status_code, hot.content) == (ordinary.status_code, ordinary.content)
    assert _headers(hot, traced=traced) == _headers(ordinary, traced=traced)


def _headers(answer: httpx.Response, *, traced: bool) -> list[tuple[bytes, bytes]]:
    """All headers in order; the request's id counts only where the request brought one."""
    assert "X-Request-Id" in answer.headers
    return [header for header in answer.headers.raw if header[0] != b"x-request-id" or traced]


async def test_a_plain_hit_does_not_reach_the_endpoint(service: Service, client: httpx.AsyncClient) -> None:
    """Otherwise the comparison above would compare the endpoint with itself."""
    await _catalogue(client)
    service.products.hot = True
    before = len(service.products.wishes)
    assert (await client.get("/products/mug-blue")).status_code == httpx.codes.OK
    assert (await client.get("/products/mug-blue", headers={"If-None-Match": '"1"'})).status_code == httpx.codes.NOT_MODIFIED
    assert len(service.products.wishes) == before
    counted = [key for key in service.requests.requests if key[1] == "/products/{product_id}"]
    assert ("GET", "/products/{product_id}", 304) in counted


async def _catalogue(client: httpx.AsyncClient) -> None:
    for product_id in ("mug-blue", "mug-gone", "mug:2.x"):
        await client.post("/products", json={"id": product_id, "name": "Mug", "price_cents": 5})
    await client.delete("/products/mug-gone")

"""Stock, ledger and retries on real servers, through all layers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.api.problem import places, problem
from tests.api.real import proven, service

URL = "/products/mug-blue"
MUG = {"id": "mug-blue", "name": "Blue mug", "price_cents": 1299, "stock": 40, "reorder_point": 10}


@pytest.fixture
async def client(database_url: str, redis_url: str, namespace: str) -> AsyncIterator[httpx.AsyncClient]:
    async with service(database_url, redis_url, namespace) as client:
        await proven(client)
        await client.post("/products", json=MUG)
        yield client


async def test_an_adjustment_is_the_next_reads_hit(client: httpx.AsyncClient) -> None:
    """Product and movement are the row's and the ledger's own, to the microsecond."""
    answer = await client.post(f"{URL}/stock/adjustments", json={"delta": -3, "reason": "sale", "reference": "order-17"})
    hit = await client.get(URL)
    assert (hit.headers["Cache-Status"], hit.headers["ETag"]) == ("larder; hit", answer.headers["ETag"])
    assert answer.content.startswith(b'{"product":' + hit.content + b',"movement":')
    for url in (f"{URL}/stock/movements", "/stock/movements?reference=order-17"):
        assert (await client.get(url)).json()["items"][0] == answer.json()["movement"]


async def test_two_thousand_lines_are_one_request_and_one_more_is_too_many(client: httpx.AsyncClient) -> None:
    """All of them in one version; the ledger has a line for each, and gives them page by page."""
    lines = [{"product_id": "mug-blue", "delta": 1}, {"product_id": "mug-blue", "delta": -1}] * 1_000
    body: dict[str, Any] = {"lines": lines, "reason": "correction", "reference": "all"}
    answer = await client.post("/stock/adjustments", json=body, headers={"Idempotency-Key": "k"})
    assert answer.json()["lines"] == [line | {"stock": 40, "version": 2} for line in lines]
    again = await client.post("/stock/adjustments", json=body, headers={"Idempotency-Key": "k"})
    assert (again.content, again.headers["Idempotent-Replayed"]) == (answer.content, "true")
    url, seen = "/stock/movements?reference=all&limit=250", []
    while url:
        page = await client.get(url)
        seen += [item["line"] for item in page.json()["items"]]
        url = page.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert seen == list(range(2_000))[::-1]
    body["lines"] = [*lines, lines[0]]
    assert places(problem(await client.post("/stock/adjustments", json=body), "invalid-request")) == ["#/lines"]


async def test_a_refusal_names_the_stock_under_the_lock(client: httpx.AsyncClient) -> None:
    """What the database holds decides, also when SQL by hand changed it behind the service's back."""
    answer = await client.post(f"{URL}/stock/adjustments", json={"delta": -41, "reason": "sale"})
    shortage = {"product_id": "mug-blue", "available": 40, "requested": 41, "version": 1}
    assert problem(answer, "insufficient-stock")["shortages"] == [shortage]
    problem(await client.post(f"{URL}/stock/adjustments", json={"delta": 2**53 - 40, "reason": "sale"}), "stock-limit")


async def test_what_should_be_ordered_again_is_found(client: httpx.AsyncClient) -> None:
    """As soon as a sale brought the stock below the reorder point."""
    assert (await client.get("/products?below_reorder_point=true")).json()["items"] == []
    sold = await client.post(f"{URL}/stock/adjustments", json={"delta": -31, "reason": "sale"})
    assert (await client.get("/products?below_reorder_point=true")).json()["items"] == [sold.json()["product"]]
    assert (await client.get("/products?below_reorder_point=true&q=BLUE")).json()["items"] == [sold.json()["product"]]


async def test_every_kind_of_answer_survives_its_storage(client: httpx.AsyncClient) -> None:
    """Created, changed, deleted, refused: the retry has the bytes and headers that came first."""
    requests: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "/products", {"name": 'Ünï "q" \u2028 🍵', "price_cents": 1}),
        ("POST", "/products/batch", {"items": [MUG | {"id": "b"}, {"name": "🍵", "price_cents": 1}, {}]}),
        ("POST", "/products/batch", {"items": [{}]}),
        ("PATCH", URL, {"price_cents": 5}),
        ("PUT", f"{URL}/stock", {"stock": 3, "reference": "é"}),
        ("POST", f"{URL}/stock/adjustments", {"delta": -4, "reason": "sale"}),
        ("POST", f"{URL}/stock/adjustments", {"delta": -3, "reason": "sale"}),
        ("DELETE", URL, None),
        ("DELETE", "/products/none", None),
    ]
    for number, (method, url, body) in enumerate(requests):
        headers = {"Idempotency-Key": str(number)}
        first, again = [await client.request(method, url, json=body, headers=headers) for _ in range(2)]
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (first.status_code, first.content) == (again.status_code, again.content)
        kept = ("etag", "location", "content-type", "cache-control")
        assert [first.headers.get(name) for name in kept] == [again.headers.get(name) for name in kept]


async def test_a_batch_without_a_good_item_has_its_key_all_the_same(client: httpx.AsyncClient) -> None:
    """Nothing is written, and yet the key is taken, and another request's key is not."""
    headers = {"Idempotency-Key": "k"}
    assert (await client.post("/products/batch", json={"items": [{}]}, headers=headers)).status_code == httpx.codes.OK
    problem(await client.post("/products/batch", json={"items": [{}, {}]}, headers=headers), "idempotency-key-reused")
    problem(await client.patch(URL, json={"price_cents": 5}, headers=headers), "idempotency-key-reused")


async def test_one_key_twice_at_once_sells_once(client: httpx.AsyncClient, database_url: str) -> None:
    """Whichever request is second waits for the first one's answer; the ledger names request and key."""
    body = {"delta": -1, "reason": "sale"}
    calls = [client.post(f"{URL}/stock/adjustments", json=body, headers={"Idempotency-Key": '"k"'}) for _ in range(10)]
    answers = await asyncio.gather(*calls)
    assert len({answer.content for answer in answers}) == 1
    [first] = [answer for answer in answers if "Idempotent-Replayed" not in answer.headers]
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute("SELECT request_id, idempotency_key FROM stock_movements WHERE reason = 'sale'")
        assert await cursor.fetchall() == [(first.headers["X-Request-Id"], "k")]

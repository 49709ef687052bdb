"""The whole service, from HTTP to PostgreSQL and Redis: what a client sees of the road through all layers."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from app.private_servers import PostgresServer, RedisServer
from tests.api.problem import places, problem, send
from tests.api.real import proven, service

URL = "/products/mug-blue"
MUG = {"id": "mug-blue", "name": "Blue mug", "price_cents": 1299, "stock": 40, "reorder_point": 10}


@pytest.fixture
async def client(database_url: str, redis_url: str, namespace: str) -> AsyncIterator[httpx.AsyncClient]:
    async with service(database_url, redis_url, namespace) as client:
        await proven(client)
        yield client


async def test_a_written_product_is_the_next_reads_hit(client: httpx.AsyncClient) -> None:
    """Every write is published before it is answered, and a hit has the bytes of the answer to the write."""
    writes = [
        await client.post("/products", json=MUG),
        await client.put(URL, json=MUG | {"name": "Mug"}, headers={"If-Match": '"1"'}),
        await client.patch(URL, json={"price_cents": 1}),
        await client.put(f"{URL}/stock", json={"stock": 50}),
    ]
    assert [answer.status_code for answer in writes] == [201, 200, 200, 200]
    assert [answer.headers["ETag"] for answer in writes] == ['"1"', '"2"', '"3"', '"4"']
    hit = await client.get(URL)
    assert (hit.headers["Cache-Status"], hit.headers["ETag"], hit.content) == ("larder; hit", '"4"', writes[-1].content)
    assert (await client.get(URL, headers={"If-None-Match": 'W/"4"'})).status_code == 304
    await client.delete(URL)
    gone = await client.get(URL)
    problem(gone, "product-not-found")
    assert gone.headers["Cache-Status"] == "larder; hit"


async def test_a_miss_a_hit_and_a_refresh_give_the_same_bytes(client: httpx.AsyncClient) -> None:
    """Wherever a body comes from, it is the same function of the row."""
    written = await client.post("/products", json=MUG | {"name": 'Ünï "q" \u2028 🍵 \\ /'})
    answers = [await client.get(URL)]
    await client.delete(f"/cache{URL}")
    answers += [await client.get(URL), await client.get(URL), await client.get(URL, headers={"Cache-Control": "no-cache"})]
    assert [answer.headers["Cache-Status"] for answer in answers] == [
        "larder; hit",
        "larder; fwd=miss; stored",
        "larder; hit",
        "larder; fwd=request",
    ]
    assert {answer.content for answer in answers} == {written.content}
    assert (await client.get("/products?id=mug-blue")).content == b'{"items":[' + written.content + b'],"missing":[]}'
    assert (await client.get("/products")).content == b'{"items":[' + written.content + b'],"next":null}'


async def test_read_many_counts_its_hits(client: httpx.AsyncClient) -> None:
    """All hits is a hit; otherwise the header says how many were."""
    for product_id in "abc":
        await client.post("/products", json=MUG | {"id": product_id})
    await client.delete("/cache/products/b")
    answers = [await client.get("/products?id=c&id=b&id=a&id=none") for _ in range(2)]
    statuses = [answer.headers["Cache-Status"] for answer in answers]
    assert statuses == ['larder; fwd=miss; detail="hits=3 misses=1"', "larder; hit"]
    assert [item["id"] for item in answers[1].json()["items"]] == ["c", "b", "a"]
    assert answers[1].json()["missing"] == ["none"]


@pytest.mark.parametrize("query", ["limit=2", "limit=2&q=m"])
async def test_the_list_is_walked_to_its_end(client: httpx.AsyncClient, query: str) -> None:
    """By id bytewise, by name whatever its case; every product once, in one order."""
    names = {"B": "mug", "a": "MUG", "_": "Mug 2", "C": "mUG 10", "z": "m"}
    for product_id, name in names.items():
        await client.post("/products", json=MUG | {"id": product_id, "name": name})
    seen, url = [], f"/products?{query}"
    while url:
        answer = await client.get(url)
        seen += [item["id"] for item in answer.json()["items"]]
        url = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert seen == (["z", "B", "a", "C", "_"] if "q=" in query else ["B", "C", "_", "a", "z"])


async def test_a_batch_is_one_transaction_with_an_answer_for_each(client: httpx.AsyncClient) -> None:
    """Created, updated, unchanged and refused side by side; what was written is a hit."""
    await client.post("/products", json=MUG)
    items = [
        {"id": "new", "name": "New", "price_cents": 1, "stock": 3},
        {"id": "mug-blue", "name": "Blue mug", "price_cents": 1299, "reorder_point": 10},
        {"id": "new", "name": "Twice", "price_cents": 1},
        {"id": "bad", "name": " ", "price_cents": 1},
    ]
    answer = await client.post("/products/batch", json={"items": items})
    results = [(result["id"], result["outcome"], result.get("version")) for result in answer.json()["results"]]
    assert results == [("new", "created", 1), ("mug-blue", "unchanged", 1), ("new", "refused", None), ("bad", "refused", None)]
    items[1]["price_cents"] = 1
    again = (await client.post("/products/batch", json={"items": items[:2]})).json()["results"]
    assert [(result["outcome"], result["version"]) for result in again] == [("updated", 2), ("updated", 2)]
    assert (await client.get("/products?id=new&id=mug-blue")).headers["Cache-Status"] == "larder; hit"


async def test_the_rules_of_writes_hold_on_the_row_in_postgres(client: httpx.AsyncClient) -> None:
    """Existence, preconditions and required versions are decided where the product is, and refused without a trace."""
    await client.post("/products", json=MUG)
    problem(await client.post("/products", json=MUG), "already-exists")
    problem(await client.put(URL, json=MUG), "precondition-required")
    for method, url, body in (
        ("PUT", URL, MUG),
        ("PATCH", URL, {"name": "Mug"}),
        ("PUT", f"{URL}/stock", {"stock": 1}),
        ("DELETE", URL, {}),
    ):
        answer = await send(client, method, url, body, {"If-Match": '"7"'})
        assert problem(answer, "precondition-failed")["current_version"] == 1
        absent = await send(client, method, url.replace("blue", "none"), {**body, "id": "mug-none"} if body is MUG else body)
        assert absent.status_code == 201 if body is MUG else problem(absent, "product-not-found")
        await client.delete("/products/mug-none")
    problem(
        await client.put(URL, json={"name": "Mug", "price_cents": 1}, headers={"If-None-Match": "*"}), "precondition-failed"
    )
    assert (await client.get(URL)).json()["version"] == 1


async def test_a_version_goes_on_through_deletion(client: httpx.AsyncClient) -> None:
    """A tag of a product that was there before never matches the one that came after it."""
    await client.post("/products", json=MUG)
    await client.delete(URL)
    again = await client.post("/products", json=MUG)
    assert (again.status_code, again.headers["ETag"]) == (201, '"3"')


async def test_everything_works_without_redis_and_says_so(
    database_url: str, private_redis: RedisServer, namespace: str
) -> None:
    """Reads are bypassed, writes settle, only dropping an entry has to wait; readiness does not change."""
    async with service(database_url, private_redis.url, namespace) as client:
        await proven(client)
        await client.post("/products", json=MUG)
        await private_redis.stop()
        answer = await client.patch(URL, json={"price_cents": 1})
        assert answer.status_code == 200
        read = await client.get(URL)
        assert (read.content, read.headers["Cache-Status"]) == (
            answer.content,
            "larder; fwd=bypass; detail=redis-unavailable",
        )
        many = await client.get("/products?id=mug-blue")
        assert many.headers["Cache-Status"] == "larder; fwd=bypass; detail=redis-unavailable"
        problem(await client.delete(f"/cache{URL}"), "cache-unavailable")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["redis"]) == (200, "down")
        metrics = (await client.get("/metrics")).text
        assert "larder_cache_store_up 0.0" in metrics
        assert 'larder_cache_reads_total{result="bypass"} ' in metrics


async def test_without_postgres_the_service_says_that_it_is_not_ready(
    private_postgres: PostgresServer, redis_url: str, namespace: str
) -> None:
    """503 with Retry-After for what needs the database, and no word of its address; flagged copies only on request."""
    patience = {"DATABASE_CONNECT_TIMEOUT_MS": "500", "DATABASE_ACQUIRE_TIMEOUT_MS": "500"}
    async with service(private_postgres.url, redis_url, namespace, **patience) as client:
        await proven(client)
        written = await client.post("/products", json=MUG)
        assert (await client.get("/readyz")).json() == {"status": "ready", "postgresql": "up", "redis": "up"}
        await private_postgres.stop()
        for answer in (
            await client.get("/readyz"),
            await client.get("/products"),
            await client.get(URL, headers={"Cache-Control": "no-cache"}),
            await client.patch(URL, json={"name": "Mug"}),
        ):
            problem(answer, "database-unavailable")
            assert "postgres" not in answer.text.lower().replace("postgresql does not", "")
        assert (await client.get("/livez")).status_code == 200
        async with asyncio.timeout(10):
            while (await client.get(URL)).status_code == 200:  # proven until the fence lapses
                await asyncio.sleep(0.05)
        problem(await client.get(URL), "database-unavailable")
        flagged = await client.get(URL, headers={"Cache-Control": "stale-if-error=600"})
        assert (flagged.content, flagged.headers["Cache-Status"]) == (written.content, "larder; hit; detail=unverified")


async def test_faults_of_shape_are_found_before_any_server_is_asked(client: httpx.AsyncClient) -> None:
    """The whole application refuses as its HTTP layer does."""
    problem(await send(client, "POST", "/products", b"x" * 5_000_000), "body-too-large")
    assert places(problem(await send(client, "PUT", URL, {"name": "\ud800", "price_cents": 1}), "invalid-request")) == [
        "#/name"
    ]
    problem(await client.get("/products?after=x"), "invalid-request")
    problem(await send(client, "POST", "/products", MUG, {"Idempotency-Key": ""}), "invalid-header")

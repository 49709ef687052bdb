"""The whole service, from HTTP to PostgreSQL and Redis: what a client sees of the road through all layers."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict

from app.private_servers import PostgresServer, RedisServer
from tests.api.problem import problem
from tests.api.real import proven, service
from tests.harness.servers import execute

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
    async with asyncio.timeout(10):
        missed = answers[0]
        while missed.headers["Cache-Status"] != "larder; fwd=miss; stored":  # an audit of the new row may take the lease away
            await client.delete(f"/cache{URL}")
            missed = await client.get(URL)
    answers += [missed, await client.get(URL), await client.get(URL, headers={"Cache-Control": "no-cache"})]
    assert [answer.headers["Cache-Status"] for answer in answers] == [
        "larder; hit",
        "larder; fwd=miss; stored",
        "larder; hit",
        "larder; fwd=request",
    ]
    assert {answer.content for answer in answers} == {written.content}
    assert (await client.get("/products?id=mug-blue")).content == b'{"items":[' + written.content + b'],"missing":[]}'
    assert (await client.get("/products")).content == b'{"items":[' + written.content + b'],"next":null}'


async def test_an_adjustment_is_the_next_reads_hit(client: httpx.AsyncClient) -> None:
    """Product and movement are the row's and the ledger's own, to the microsecond."""
    await client.post("/products", json=MUG)
    answer = await client.post(f"{URL}/stock/adjustments", json={"delta": -3, "reason": "sale", "reference": "order-17"})
    hit = await client.get(URL)
    assert (hit.headers["Cache-Status"], hit.headers["ETag"]) == ("larder; hit", answer.headers["ETag"])
    assert answer.content.startswith(b'{"product":' + hit.content + b',"movement":')
    for url in (f"{URL}/stock/movements", "/stock/movements?reference=order-17"):
        assert (await client.get(url)).json()["items"][0] == answer.json()["movement"]


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
        assert re.search(r"larder_cache_store_up\{[^}]*\} 0\.0", metrics)
        assert 'result="bypass"} ' in metrics


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
        async with asyncio.timeout(10):
            while (unready := await client.get("/readyz")).status_code == 200:  # what was found out a moment ago
                await asyncio.sleep(0.05)
        for answer in (
            unready,
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


async def test_read_only_database_is_not_ready_and_says_why(database_url: str, redis_url: str, namespace: str) -> None:
    """What an administrator made read-only is neither a standby nor a defect: readiness and a refused write name it."""
    name = conninfo_to_dict(database_url)["dbname"]
    await execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with service(database_url, redis_url, namespace) as client:
        for answer in (await client.get("/readyz"), await client.post("/products", json=MUG)):
            assert "read-only" in str(problem(answer, "database-unavailable")["detail"])

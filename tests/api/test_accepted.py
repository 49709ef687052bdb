"""Accepted writes on real servers: what a 202 promises, in which order requests are decided, and what "done" shows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import httpx
import psycopg
import pytest
from typing_extensions import override

from app.api.context import Larder
from app.cache.write_through import WriteThrough
from app.products.acceptance import Acceptance
from app.products.accepted import Decode, Found
from app.products.transactions import Committed, ProductTransactions
from tests.api.real import proven, service

APPLIER = "SELECT pg_advisory_lock(hashtextextended('larder accepted writes', 0))"
LATER = {"Prefer": "respond-async"}
QUIET = {"AUDIT_INTERVAL_MS": "20000", "FENCE_TTL_MS": "40000", "FENCE_TTL_MAX_MS": "40000", "REQUEST_TIMEOUT_MS": "60000"}
"""The audit repairs nothing within a test."""

Mutate = Callable[[Larder], None]
Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve(database_url: str, redis_url: str, namespace: str) -> Serve:
    """Start an instance that accepts writes."""

    def start(**more: str) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        return service(database_url, redis_url, namespace, **{"ACCEPT_WRITES": "1"} | more)

    return start


@asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection of an operator."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@asynccontextmanager
async def nothing_applied(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Keep the applier from its work until the end of the block."""
    async with by_hand(url) as connection:
        await connection.execute(APPLIER)
        yield connection


def larder_behind(client: httpx.AsyncClient) -> Larder:
    """The running service that a client reaches."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    larder: Larder = transport.app.state.larder  # type: ignore[attr-defined]
    return larder


def unchanged(_larder: Larder) -> None:
    """Leave the service as it is shipped."""


async def create(client: httpx.AsyncClient, *ids: str, stock: int = 10) -> None:
    items = [{"id": product_id, "name": "Mug", "price_cents": 100, "stock": stock} for product_id in ids]
    assert (await client.post("/products/batch", json={"items": items})).status_code == 200


async def adjust(client: httpx.AsyncClient, key: str, delta: int, *ids: str, later: bool = True) -> httpx.Response:
    lines = [{"product_id": product_id, "delta": delta} for product_id in ids]
    headers = {"Idempotency-Key": key} | (LATER if later else {})
    return await client.post("/stock/adjustments", json={"lines": lines, "reason": "other", "reference": key}, headers=headers)


async def ended(client: httpx.AsyncClient, key: str) -> dict[str, Any]:
    """The status of a write, once it is no longer queued."""
    async with asyncio.timeout(20):
        while (answer := await client.get(f"/writes/{key}")).json()["state"] == "queued":
            assert answer.headers["Retry-After"] == "1"
            await asyncio.sleep(0.02)
    status: dict[str, Any] = answer.json()
    return status


async def order(client: httpx.AsyncClient, product_id: str) -> list[str]:
    """The references of a product's movements, oldest first, without its creation; their sum is its stock."""
    movements = (await client.get(f"/products/{product_id}/stock/movements?limit=250")).json()["items"]
    product = (await client.get(f"/products/{product_id}")).json()
    assert sum(movement["delta"] for movement in movements) == product["stock"]
    return [movement["reference"] for movement in reversed(movements) if movement["reason"] != "opening"]


async def test_accepted_write_is_decided_once(serve: Serve, database_url: str) -> None:
    """The 202 says where the status is; the same key gets the same 202, later the kept answer; another content is refused."""
    async with serve() as client:
        await create(client, "a")
        async with nothing_applied(database_url):
            for _ in range(2):
                accepted = await adjust(client, "k 1", -3, "a")
                assert (accepted.status_code, accepted.json()) == (202, {"key": "k 1", "state": "queued"})
                assert accepted.headers["Location"] == "/writes/k%201"
                assert accepted.headers["Preference-Applied"] == "respond-async"
                assert accepted.headers["Retry-After"] == "1"
            assert (await adjust(client, "k 1", -4, "a")).json()["type"] == "/problems/idempotency-key-reused"
            assert (await client.get("/writes/k%201")).json()["state"] == "queued"
            assert (await client.get("/products/a")).json()["stock"] == 10
        status = await ended(client, "k%201")
        assert (status["state"], status["answer"]["status"], status["answer"]["body"]["lines"][0]["stock"]) == ("done", 200, 7)
        assert (await client.get("/products/a")).json()["stock"] == 7
        again = await adjust(client, "k 1", -3, "a")
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
        assert again.json() == status["answer"]["body"]
        assert await order(client, "a") == ["k 1"]
        assert (await client.get("/writes/none")).json()["type"] == "/problems/write-not-found"


async def test_refusal_is_the_answer(serve: Serve) -> None:
    """A 202 does not promise success: what the rules refuse is done, too, and its answer says why, whatever its status."""
    async with serve() as client:
        await create(client, "a")
        await adjust(client, "k", -11, "a")
        status = await ended(client, "k")
        assert (status["answer"]["status"], status["answer"]["body"]["type"]) == (409, "/problems/insufficient-stock")
        body = {"name": "Mug", "price_cents": 1, "stock": 5}
        await client.put("/products/a", json=body, headers=LATER | {"Idempotency-Key": "l"})
        assert (await ended(client, "l"))["answer"]["status"] == 428
        metrics = (await client.get("/metrics")).text
        assert "larder_accepted_writes_refused_total 2.0" in metrics


@pytest.mark.parametrize("kind", ["create", "put", "patch", "delete", "count", "adjust", "batch"])
async def test_every_write_can_be_accepted(serve: Serve, kind: str) -> None:
    """The stored request is decided as the endpoint would have decided it, preconditions included."""
    product = {"name": "Cup", "price_cents": 5}
    method, path, body, status = {
        "create": ("POST", "/products", product | {"id": "b:1"}, 201),
        "put": ("PUT", "/products/a:1", product, 200),
        "patch": ("PATCH", "/products/a:1", {"price_cents": 5}, 200),
        "delete": ("DELETE", "/products/a:1", None, 204),
        "count": ("PUT", "/products/a:1/stock", {"stock": 5}, 200),
        "adjust": ("POST", "/products/a:1/stock/adjustments", {"delta": 5, "reason": "receipt"}, 200),
        "batch": ("POST", "/products/batch", {"items": [product | {"id": "b:1"}, {"id": "b:2"}]}, 200),
    }[kind]
    async with serve() as client:
        await create(client, "a:1")
        matched = {} if kind in ("create", "batch") else {"If-Match": '"1"'}
        second = 404 if kind == "delete" else 412
        for key, expected in (("k", status), ("l", second)) if matched else (("k", status),):
            headers = LATER | matched | {"Idempotency-Key": key}
            assert (await client.request(method, path, json=body, headers=headers)).status_code == 202
            assert (await ended(client, key))["answer"]["status"] == expected


async def test_preference_that_is_not_applied(serve: Serve) -> None:
    """A key is required. Large requests, and services that do not accept, answer as ever."""
    async with serve() as client:
        await create(client, "a")
        missing = await client.put("/products/a/stock", json={"stock": 1}, headers=LATER)
        assert (missing.status_code, missing.json()["type"]) == (400, "/problems/invalid-header")
        slash = await client.put("/products/a/stock", json={"stock": 1}, headers=LATER | {"Idempotency-Key": "a/b"})
        assert slash.status_code == 400
        body = '{"stock": 1}' + " " * 65_536
        headers = LATER | {"Idempotency-Key": "large", "Content-Type": "application/json"}
        assert (await client.put("/products/a/stock", content=body, headers=headers)).status_code == 200
    async with serve(ACCEPT_WRITES="0") as client:
        direct = await client.put("/products/a/stock", json={"stock": 1}, headers=LATER)
        assert (direct.status_code, "Preference-Applied" in direct.headers) == (200, False)


async def test_client_that_waits(serve: Serve, database_url: str) -> None:
    """It gets the answer if the decision comes in time, and otherwise the 202."""
    async with serve() as client:
        await create(client, "a")
        headers = {"Prefer": "respond-async, wait=20", "Idempotency-Key": "k"}
        answer = await client.put("/products/a/stock", json={"stock": 1}, headers=headers)
        assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "respond-async, wait=20")
        async with nothing_applied(database_url):
            headers = {"Prefer": "wait=0, respond-async", "Idempotency-Key": "l"}
            answer = await client.put("/products/a/stock", json={"stock": 2}, headers=headers)
            assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "respond-async, wait=0")


async def overtaking(serve: Serve, url: str, mutate: Mutate = unchanged) -> list[str]:
    """Accept one write, then send a direct one of the same product; return the order of the ledger."""
    async with serve() as client:
        mutate(larder_behind(client))
        await create(client, "a")
        async with nothing_applied(url):
            await adjust(client, "first", 1, "a")
            assert (await adjust(client, "second", 1, "a", later=False)).status_code == 200
        await ended(client, "first")
        return await order(client, "a")


async def test_direct_write_applies_what_waits_for_its_product(serve: Serve, database_url: str) -> None:
    """It does not overtake its own sender."""
    assert await overtaking(serve, database_url) == ["first", "second"]


async def test_mutant_direct_write_overtakes(serve: Serve, database_url: str) -> None:
    """The test above sees direct writes that do not look for waiting rows."""

    def mutate(larder: Larder) -> None:
        larder.products._transactions._decode = None

    assert await overtaking(serve, database_url, mutate) == ["second", "first"]


async def test_direct_write_brings_related_rows_along(serve: Serve, database_url: str) -> None:
    """A row of two products is not applied before an earlier row of the other product. Unrelated rows go on waiting."""
    async with serve() as client:
        await create(client, "a", "b", "c")
        async with nothing_applied(database_url):
            await adjust(client, "1", 1, "b")
            await adjust(client, "2", 1, "a", "b")
            await adjust(client, "3", 1, "c")
            assert (await adjust(client, "4", 1, "a", later=False)).status_code == 200
            assert (await order(client, "a"), await order(client, "b")) == (["2", "4"], ["1", "2"])
            assert (await client.get("/writes/3")).json()["state"] == "queued"


async def test_direct_write_behind_many_rows(serve: Serve, database_url: str) -> None:
    """More rows wait than one transaction applies: it applies them in several, and comes last."""
    async with serve() as client:
        await create(client, "a")
        async with nothing_applied(database_url):
            await asyncio.gather(*[adjust(client, f"k{number}", 1, "a") for number in range(420)])
            answer = await adjust(client, "last", 1, "a", later=False)
            assert answer.status_code == 200, answer.text
            assert answer.json()["lines"][0]["stock"] == 431


async def test_same_key_sent_directly(serve: Serve, database_url: str) -> None:
    """A repetition that no longer prefers a 202 gets the answer, and the request is done once."""
    async with serve() as client:
        await create(client, "a")
        async with nothing_applied(database_url):
            await adjust(client, "k", 1, "a")
            answer = await adjust(client, "k", 1, "a", later=False)
            assert (answer.status_code, answer.json()["lines"][0]["stock"]) == (200, 11)
            assert (await client.get("/writes/k")).json()["state"] == "done"
        assert await order(client, "a") == ["k"]


async def test_held_product_holds_up_its_rows_only(serve: Serve, database_url: str) -> None:
    """While somebody holds a product's row, its writes wait in their order, and others are applied."""
    async with serve() as client, by_hand(database_url) as hand:
        await create(client, "a", "b", "c")
        async with hand.transaction():
            await hand.execute("SELECT FROM products WHERE id = 'a' FOR UPDATE")
            await adjust(client, "1", 1, "a", "b")
            await adjust(client, "2", 1, "b")
            await adjust(client, "3", 1, "c")
            await ended(client, "3")
            assert (await client.get("/writes/2")).json()["state"] == "queued"
        await ended(client, "2")
        assert await order(client, "b") == ["1", "2"]


async def test_row_that_cannot_be_applied(serve: Serve, database_url: str) -> None:
    """It is tried alone, marked as failed with the reason, and counted; the rows beside and behind it are applied."""
    async with serve() as client, by_hand(database_url) as hand:
        await create(client, "a", "b", "c")
        await hand.execute("ALTER TABLE stock_movements ADD CHECK (reference <> '2')")
        async with nothing_applied(database_url):
            await adjust(client, "1", 1, "a")
            await adjust(client, "2", 3, "b")
            await adjust(client, "3", 4, "b")
            await adjust(client, "4", 1, "c")
            await hand.execute("UPDATE accepted_writes SET operation = 'none' WHERE key = '4'")
        states = [(await ended(client, key))["state"] for key in "1234"]
        assert states == ["done", "failed", "done", "failed"]
        assert "KeyError" in (await ended(client, "4"))["reason"]
        assert (await client.get("/products/b")).json()["stock"] == 14
        async with asyncio.timeout(10):
            while "larder_accepted_failed_rows 2.0" not in (text := (await client.get("/metrics")).text):
                await asyncio.sleep(0.1)
        assert "larder_accepted_writes_failed_total 2.0" in text
        await hand.execute("UPDATE accepted_writes SET failed_at = NULL, failure = NULL, operation = 'adjustStocks'")
        await hand.execute("DELETE FROM accepted_writes WHERE key = '2'")
        assert (await ended(client, "4"))["state"] == "done"


async def test_old_backlog_is_not_extended(serve: Serve, database_url: str) -> None:
    """When the first row has waited for a minute, nothing more is accepted; a direct write still is carried out."""
    async with serve() as client:
        await create(client, "a", "b")
        async with nothing_applied(database_url) as hand:
            await adjust(client, "k", 1, "a")
            await hand.execute("UPDATE accepted_writes SET accepted_at = now() - interval '2 minutes'")
            async with asyncio.timeout(10):
                number = 0
                while (answer := await adjust(client, f"n{number}", 1, "b")).status_code == 202:
                    number += 1
                    await asyncio.sleep(0.1)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/overloaded")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert (await adjust(client, "direct", 1, "b", later=False)).status_code == 200


async def late(serve: Serve, url: str, mutate: Mutate = unchanged) -> str:
    """Commit a row after a row of a higher number was applied; return its state in the end."""
    async with serve() as client, by_hand(url) as hand:
        mutate(larder_behind(client))
        await create(client, "a")
        async with hand.transaction():
            await hand.execute(
                "INSERT INTO accepted_writes (caller, key, request_hash, product_ids, operation, target, conditions, body)"
                " VALUES ('', 'low', '', '{a}', 'putStock', '/products/a/stock', '[]', '{\"stock\": 5}')"
            )
            await adjust(client, "high", 1, "a")
            await ended(client, "high")
        async with asyncio.timeout(10):
            while (answer := await client.get("/writes/low")).status_code == 200 and answer.json()["state"] == "queued":
                await asyncio.sleep(0.02)
        return str(answer.json().get("state"))


async def test_lower_number_that_is_committed_later(serve: Serve, database_url: str) -> None:
    """It is decided all the same: nothing is concluded from the numbers."""
    assert await late(serve, database_url) == "done"


class UpTo(ProductTransactions):
    """Believes that what is applied is everything up to a number."""

    newest = 0

    @override
    async def apply(self, decode: Decode, most: int) -> Committed:
        async with self._lists.session() as session:
            await session.rows("DELETE FROM accepted_writes WHERE seq <= %(newest)s", {"newest": self.newest})
            [(newest,)] = await session.rows("SELECT max(seq) FROM accepted_writes")
        committed = await super().apply(decode, most)
        if committed.taken:
            self.newest = newest
        return committed


async def test_mutant_applied_up_to_a_number(serve: Serve, database_url: str) -> None:
    """The test above sees an applier that takes everything below its newest number for applied."""

    def mutate(larder: Larder) -> None:
        assert larder.accepted is not None
        larder.accepted._transactions.__class__ = UpTo

    assert await late(serve, database_url, mutate) == "None"


class Unpublished:
    """The cache of a process that is killed between each COMMIT and its publish."""

    async def write(self, _keys: object, transact: Callable[[], Awaitable[Committed]]) -> tuple[Committed, None]:
        return await transact(), None


async def after_done(serve: Serve, url: str, mutate: Mutate = unchanged) -> tuple[int, int]:
    """Cache a product, apply a write without a publish, read the status; return the stock before and after that."""
    async with serve(**QUIET) as client:
        larder = larder_behind(client)
        mutate(larder)
        await create(client, "a")
        await proven(client)
        assert (await client.get("/products/a")).headers["Cache-Status"] == "larder; hit"
        assert larder.accepted is not None
        async with nothing_applied(url) as hand:
            await adjust(client, "k", -3, "a")
            cache = larder.accepted._cache
            larder.accepted._cache = cast("WriteThrough", Unpublished())
            await hand.execute("SELECT pg_advisory_unlock_all()")
            async with asyncio.timeout(10):
                while await (await hand.execute("SELECT 1 FROM accepted_writes")).fetchone():
                    await asyncio.sleep(0.02)
            larder.accepted._cache = cache
        before = (await client.get("/products/a")).json()["stock"]
        assert (await client.get("/writes/k")).json()["state"] == "done"
        return before, (await client.get("/products/a")).json()["stock"]


async def test_done_comes_after_a_read_that_shows_it(serve: Serve, database_url: str) -> None:
    """The applier died before its publish, and readers get the old state until the status publishes."""
    assert await after_done(serve, database_url) == (10, 7)


async def test_mutant_status_without_r10(serve: Serve, database_url: str) -> None:
    """The test above sees a status that publishes nothing."""

    def mutate(larder: Larder) -> None:
        assert larder.accepted is not None
        larder.accepted._acceptance.__class__ = Silent

    assert await after_done(serve, database_url, mutate) == (10, 10)


class Silent(Acceptance):
    """Tells what became of a write without the rows to publish."""

    @override
    async def find(self, caller: str, key: str) -> Found:
        return replace(await super().find(caller, key), states=())

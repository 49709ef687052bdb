"""Accepted writes on real servers: what a 202 promises, and what became of it."""

import pytest

from tests.api.accepting import LATER, Serve, adjust, create, ended, nothing_applied, order


@pytest.mark.guarantee("G2a")
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


@pytest.mark.guarantee("G3")
async def test_without_redis(serve: Serve) -> None:
    """A write is accepted and decided as ever; its status settles before it says "done"."""
    async with serve(REDIS_URL="redis://127.0.0.1:1", REQUEST_TIMEOUT_MS="60000") as client:
        await create(client, "a")
        assert (await adjust(client, "k", -3, "a")).status_code == 202
        assert (await ended(client, "k"))["state"] == "done"
        assert await order(client, "a") == ["k"]


@pytest.mark.parametrize("name", ["Farmer's Mug", "Mug \\u0041 é", 'Mug "x"'])
async def test_an_accepted_body_is_kept_as_it_was_sent(serve: Serve, name: str) -> None:
    """Byte for byte, whatever characters it has."""
    async with serve() as client:
        sent = {"id": "b:1", "name": name, "price_cents": 5}
        accepted = await client.post("/products", json=sent, headers=LATER | {"Idempotency-Key": "k"})
        assert accepted.status_code == 202
        assert (await ended(client, "k"))["answer"]["status"] == 201
        assert (await client.get("/products/b:1")).json()["name"] == name


async def test_a_repetition_of_an_accepted_write_is_the_same(serve: Serve, database_url: str) -> None:
    """Whatever bytes the hash of the request has."""
    async with serve() as client:
        await create(client, "a")
        async with nothing_applied(database_url):
            for number in range(30):
                answers = [await adjust(client, f"k{number}", -1, "a") for _ in range(2)]
                assert [answer.status_code for answer in answers] == [202, 202]

"""Admission over HTTP: keys and scopes of every operation, hosts, origins and rates, in the order of errors."""

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from app.access.key_ring import KeyRing
from app.access.keys import Scope, make_key
from app.access.rates import Limits
from app.api.admission import Admission
from tests.api.conftest import Service
from tests.api.problem import problem
from tests.fakes.keys import Clock, MemoryKeys

OPEN = {"getLiveness", "getReadiness"}
"""The operations that need no key."""
METHODS = {"get", "head", "put", "post", "patch", "delete"}


@dataclass
class Guarded:
    """The service with keys, a client without one, and its operations."""

    service: Service
    keys: MemoryKeys
    ring: KeyRing
    clock: Clock
    client: httpx.AsyncClient

    async def key(self, *scopes: Scope, **more: float) -> dict[str, str]:
        """Make a key; return the headers that show it."""
        header = self.keys.add("till", frozenset(scopes), **more)
        await self.ring.renew()
        return {"Authorization": header.decode()}

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Return method, path and description of every operation of the OpenAPI document."""
        for path, methods in self.service.app.openapi()["paths"].items():
            for method, operation in methods.items():
                if method in METHODS:
                    named = path.format(product_id="mug-blue", reservation_id="0" * 32, key="k")
                    yield method.upper(), named, operation


@pytest.fixture
async def guarded(service: Service, client: httpx.AsyncClient) -> Guarded:
    keys, clock = MemoryKeys(), Clock()
    ring = KeyRing([keys], limits=Limits(1e6, 3, 2), clock=clock)
    await ring.renew()
    service.app.state.larder = replace(service.app.state.larder, admission=Admission(ring, clock=clock))
    return Guarded(service, keys, ring, clock, client)


async def test_every_operation_needs_its_scope_and_no_other(guarded: Guarded) -> None:
    """Without a valid key 401, with a key of any other scope 403, with its own neither; nothing is said about the product."""
    valid = {scope: await guarded.key(scope) for scope in Scope}
    all_but = {scope: await guarded.key(*set(Scope) - {scope}) for scope in Scope}
    revoked = await guarded.key(*Scope)
    guarded.keys.revoke(f"k{len(guarded.keys.keys) - 1}")
    guarded.keys.add("other", frozenset(Scope), expires_in_s=-1.0)
    expired = await guarded.key(*Scope, expires_in_s=0.0)
    unknown = {"Authorization": f"Bearer {make_key()[0]}"}
    for method, path, operation in guarded.operations():
        name = operation["operationId"]
        if name in OPEN:
            assert operation["security"] == []  # which says that the service's keys are not asked for
            assert (await guarded.client.request(method, path)).status_code == 200
            continue
        [[needed]] = [scheme["key"] for scheme in operation["security"]]
        for headers in ({}, unknown, revoked, expired, {"Authorization": "Basic eDp5"}):
            answer = await guarded.client.request(method, path, headers=headers)
            assert answer.status_code == 401, (name, headers)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert "mug-blue" not in answer.text.replace(path, "")
        for scope, headers in valid.items():
            answer = await guarded.client.request(method, path, headers=headers)
            assert (answer.status_code == 403) == (scope != needed), (name, scope)
            assert answer.status_code != 401
        refused = await guarded.client.request(method, path, headers=all_but[Scope(needed)])
        assert refused.status_code == 403
        if method != "HEAD":
            assert problem(refused, "forbidden")["scope"] == needed
        assert f'scope="{needed}"' in refused.headers["WWW-Authenticate"]


async def test_open_pages_need_no_key(guarded: Guarded) -> None:
    """The pages for people and the description of the API are open."""
    for path in ("/docs", "/dashboard", "/dashboard/assets/dashboard.js", "/openapi.json", "/problems", "/problems/forbidden"):
        assert (await guarded.client.get(path)).status_code == 200, path


async def test_keys_that_cannot_be_checked_are_503(guarded: Guarded) -> None:
    """With PostgreSQL away the copy lapses; then nobody is let in, and the answer says when to come back."""
    key = await guarded.key(*Scope)
    assert (await guarded.client.get("/products/none", headers=key)).status_code == 404
    guarded.clock.now += 2.0
    answer = await guarded.client.get("/products/none", headers=key)
    problem(answer, "keys-unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert (await guarded.client.get("/livez")).status_code == 200


async def test_key_is_checked_again_after_the_body(guarded: Guarded) -> None:
    """A request whose body arrives after the revocation changes nothing."""
    key = await guarded.key(*Scope)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"id":"late",'
        guarded.keys.revoke("k0")
        await guarded.ring.renew()
        yield b'"name":"Mug","price_cents":1}'

    answer = await guarded.client.post("/products", content=slowly(), headers=key | {"Content-Type": "application/json"})
    problem(answer, "unauthenticated")
    assert "late" not in guarded.service.tables.rows


async def test_idempotency_keys_are_the_clients_own(guarded: Guarded) -> None:
    """Another client may use the same idempotency key, and neither sees the other's answer."""
    till = await guarded.key(*Scope)
    erp = {"Authorization": guarded.keys.add("erp", frozenset(Scope)).decode()}
    await guarded.ring.renew()
    again = {"Idempotency-Key": "order-4711"}
    first = await guarded.client.post("/products", json={"id": "a", "name": "A", "price_cents": 1}, headers=till | again)
    other = await guarded.client.post("/products", json={"id": "b", "name": "B", "price_cents": 2}, headers=erp | again)
    assert (first.status_code, other.status_code) == (201, 201)
    repeated = await guarded.client.post("/products", json={"id": "a", "name": "A", "price_cents": 1}, headers=till | again)
    assert (repeated.content, repeated.headers["Idempotent-Replayed"]) == (first.content, "true")


async def test_rate_is_refused_with_the_time_to_wait(guarded: Guarded) -> None:
    """Beyond its rate a client gets 429 with the fields that say how long; another client is served; time heals it."""
    key = await guarded.key(*Scope, rate_per_s=10.0)
    other = {"Authorization": guarded.keys.add("erp", frozenset(Scope)).decode()}
    await guarded.ring.renew()
    statuses = [(await guarded.client.get("/products", headers=key)).status_code for _ in range(6)]
    assert statuses == [200] * 5 + [429], "a list costs ten units, the bucket holds fifty"
    answer = await guarded.client.get("/products", headers=key)
    problem(answer, "rate-limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= 3
    assert answer.headers["RateLimit-Policy"] == '"client";q=10;w=1'
    assert answer.headers["RateLimit"] == '"client";r=0;t=1'
    assert (await guarded.client.get("/products", headers=other)).status_code == 200
    guarded.clock.now += 1.0
    assert (await guarded.client.get("/products", headers=key)).status_code == 200


async def test_refresh_costs_more(guarded: Guarded) -> None:
    """A read that asks for PostgreSQL costs five units, another one a single unit."""
    key = await guarded.key(Scope.PRODUCTS_READ, rate_per_s=10.0)
    for _ in range(10):
        await guarded.client.get("/products/none", headers=key | {"Cache-Control": "no-cache"})
    assert (await guarded.client.get("/products/none", headers=key)).status_code == 429


async def test_quotas_end_writes_and_not_reads(guarded: Guarded) -> None:
    """A client that has created its products of the day, or used its idempotency keys, is refused until some are free."""
    key = await guarded.key(*Scope)
    for number in range(2):
        made = await guarded.client.post("/products", json={"id": f"p{number}", "name": "P", "price_cents": 1}, headers=key)
        assert made.status_code == 201
    answer = await guarded.client.post("/products", json={"name": "P", "price_cents": 1}, headers=key)
    assert "new products" in str(problem(answer, "quota-exceeded")["detail"])
    assert int(answer.headers["Retry-After"]) == 43_200
    assert (await guarded.client.get("/products/p0", headers=key)).status_code == 200
    other = {"Authorization": guarded.keys.add("erp", frozenset(Scope)).decode()}
    await guarded.ring.renew()
    patch = {"name": "Q"}
    for number, path, status in ((0, "p0", 200), (1, "none", 404), (2, "p0", 200)):
        once = {"Idempotency-Key": f"k{number}"}
        assert (await guarded.client.patch(f"/products/{path}", json=patch, headers=other | once)).status_code == status
    answer = await guarded.client.patch("/products/p0", json=patch, headers=other)
    assert "idempotency keys" in str(problem(answer, "quota-exceeded")["detail"])


async def test_refused_callers_are_in_the_metrics(guarded: Guarded) -> None:
    """Refusals are counted by reason, requests by client."""
    key = await guarded.key(Scope.OPERATE)
    await guarded.client.get("/products/none")
    await guarded.client.get("/products/none", headers=key)
    metrics = (await guarded.client.get("/metrics", headers=key)).text
    assert 'larder_requests_refused_total{reason="unauthenticated"} 1.0' in metrics
    assert 'larder_requests_refused_total{reason="forbidden"} 1.0' in metrics
    assert 'larder_client_requests_total{client="till"} 1.0' in metrics


async def test_log_names_the_key_and_not_the_secret(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """Who was refused and why is in the log; what the client chose is escaped, and a flood is cut short."""
    key = await guarded.key(Scope.OPERATE)
    with caplog.at_level(logging.INFO, "larder.request"):
        await guarded.client.get("/products/a%0Ab", headers=key)
        for _ in range(100):
            await guarded.client.get("/products/none")
    said = [record.getMessage() for record in caplog.records]
    assert "key k0 of client till" in said[0]
    assert "forbidden" in said[0]
    assert "\n" not in said[0]
    assert key["Authorization"].split("_")[2] not in "".join(said)
    assert len(said) <= 12


# ------------------------------------------------------------------ hosts and origins


@pytest.mark.parametrize("hosts", [[], ["larder", "larder"], [""], ["a b"], ["a/b"], ["larder:x"], ["u@larder"], ["[::1"]])
async def test_host_must_be_one_and_well_formed(client: httpx.AsyncClient, hosts: list[str]) -> None:
    """A missing, repeated or malformed Host is 400 everywhere (RFC 9112, 3.2)."""
    for path in ("/products/none", "/livez", "/nowhere"):
        request = client.build_request("GET", path)
        request.headers = httpx.Headers([("Host", host) for host in hosts])
        problem(await client.send(request), "invalid-header")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("larder", True), ("LARDER:8000", True), ("localhost", True), ("localhost:80", True), ("127.0.0.1:8000", True),
        ("127.9.9.9", True), ("[::1]:8000", True), ("evil.example", False), ("192.0.2.1", False), ("[2001:db8::1]", False),
        ("localhost.evil.example", False), ("larder.", False), ("127.0.0.1.evil.example", False),
    ],
)  # fmt: skip
async def test_open_service_has_its_own_names_only(client: httpx.AsyncClient, host: str, *, allowed: bool) -> None:
    """A name that a web page had resolved to this machine is 421 for everything but the probes."""
    for method, path in (("GET", "/products/none"), ("PUT", "/products/a"), ("GET", "/docs"), ("GET", "/metrics")):
        answer = await client.request(method, path, headers={"Host": host})
        assert (answer.status_code == 421) == (not allowed), (method, path)
    assert (await client.get("/livez", headers={"Host": host})).status_code == 200
    assert (await client.get("/readyz", headers={"Host": host})).status_code == 200


async def test_with_keys_every_name_is_right_unless_some_are_named(guarded: Guarded) -> None:
    """Where a key is needed, the host decides nothing by itself."""
    key = await guarded.key(Scope.PRODUCTS_READ)
    assert (await guarded.client.get("/products/none", headers=key | {"Host": "shop.example"})).status_code == 404


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": "http://larder:3000"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://larder"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://larder"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({}, False),
    ],
)
async def test_page_of_another_site_may_not_write(
    client: httpx.AsyncClient, mug: dict[str, object], headers: dict[str, str], *, refused: bool
) -> None:
    """A browser names the site that a write comes from; a foreign one is 403, and its reads are served without CORS."""
    assert mug["version"] == 1
    for method in ("PUT", "PATCH", "DELETE"):
        answer = await client.request(method, "/products/mug-blue", headers=headers)
        assert (answer.status_code == 403) == refused, method
    read = await client.get("/products/none", headers=headers)
    assert read.status_code == 404
    assert "Access-Control-Allow-Origin" not in read.headers


async def test_order_of_errors(guarded: Guarded) -> None:
    """Host, route, method, key, scope, origin, rate, and then everything about the request itself."""
    little = await guarded.key(Scope.PRODUCTS_READ)
    send = guarded.client.request
    bad = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert (await send("PUT", "/nowhere", headers={"Host": "a b"})).status_code == 400
    assert (await send("PUT", "/nowhere", headers=bad)).status_code == 404
    assert (await send("DELETE", "/products", headers=bad)).status_code == 405
    assert (await send("PUT", "/products/a", headers=bad)).status_code == 401
    problem(await send("PUT", "/products/a", headers=bad | little), "forbidden")
    full = await guarded.key(Scope.PRODUCTS_WRITE)
    problem(await send("PUT", "/products/a", headers=bad | full), "cross-site")
    del bad["Origin"]
    assert (await send("PUT", "/products/a", headers=bad | full)).status_code == 415

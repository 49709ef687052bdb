"""One of several pairs of Larder and PostgreSQL: what belongs to another pair is 421, and nothing is done for it."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from app.access.key_ring import KeyRing
from app.access.keys import Scope
from app.access.rates import Limits
from app.api.accepting import Decoder
from app.api.admission import Admission
from app.api.context import Larder
from app.buckets import bucket_of, moved_to
from app.products.accepted import AcceptedWrite
from app.products.pair import Pair
from tests.api.conftest import LIMIT, Service, new_service
from tests.api.problem import problem, send
from tests.api.wire import Port, answer_of, connection, listen
from tests.fakes.keys import Clock, MemoryKeys

HERE, ALSO_HERE = moved_to(3, "here-0000"), moved_to(0, "also-here-0000")
THERE = moved_to(4, "there-0000")
NOT_MADE = moved_to(4, "0" * 32)
"""An id that a reservation of another pair could have."""
MUG = {"name": "Mug", "price_cents": 1299, "stock": 5}
METHODS = {"get", "head", "put", "post", "patch", "delete"}


@pytest.fixture
def service() -> Service:
    return new_service(Pair("0-3"))


@pytest.fixture
async def port(service: Service) -> AsyncIterator[Port]:
    async with listen(service) as port:
        yield port


@pytest.fixture
def untouched(service: Service) -> Iterator[None]:
    """Whatever the requests are, they reach neither the cache nor the database."""
    yield
    assert service.transactions.requests == []
    assert service.products.reads == []
    assert service.products.slots == {}


def operations(service: Service) -> Iterator[tuple[str, str]]:
    """Every operation whose path names a product or a reservation, about one of another pair."""
    for path, methods in service.app.openapi()["paths"].items():
        if "product_id" in path or "reservation_id" in path:
            yield from ((method.upper(), path.format(product_id=THERE, reservation_id=NOT_MADE)) for method in methods)


@pytest.mark.usefixtures("untouched")
async def test_every_path_of_another_pair_is_refused(service: Service, client: httpx.AsyncClient) -> None:
    """It is refused whatever else is wrong with the request, whose body is not even read."""
    service.products.fault = AssertionError("the service was called")
    listed = list(operations(service))
    assert len(listed) >= 12
    for method, path in listed:
        answer = await send(client, method, path, b"x" * (LIMIT + 1), {"If-Match": "1", "Content-Type": "text/plain"})
        if method == "HEAD":
            assert answer.status_code == 421
            continue
        document = problem(answer, "not-here")
        assert (document["bucket"], document["buckets_here"]) == (4, "0-3"), (method, path)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/products", MUG | {"id": THERE}),
        ("POST", "/products/batch", {"items": [MUG | {"id": THERE}]}),
        ("POST", "/stock/adjustments", {"lines": [{"product_id": THERE, "delta": 1}], "reason": "receipt"}),
        ("POST", "/reservations", {"lines": [{"product_id": THERE, "quantity": 1}], "expires_in_s": 60}),
        ("GET", f"/products?id={THERE}", None),
        ("GET", f"/reservations?product_id={THERE}", None),
    ],
)
@pytest.mark.usefixtures("untouched")
async def test_what_a_body_or_a_query_names_elsewhere_is_refused(
    client: httpx.AsyncClient, method: str, path: str, body: object
) -> None:
    """Everything that the request names belongs to another pair, so a map was wrong."""
    headers = {} if method == "GET" else {"Idempotency-Key": "one"}
    assert problem(await send(client, method, path, body, headers), "not-here")["bucket"] == 4


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/products/batch", {"items": [MUG | {"id": HERE}, MUG | {"id": THERE}]}),
        (
            "POST",
            "/stock/adjustments",
            {"lines": [{"product_id": HERE, "delta": 1}, {"product_id": THERE, "delta": 1}], "reason": "receipt"},
        ),
        (
            "POST",
            "/reservations",
            {"lines": [{"product_id": THERE, "quantity": 1}, {"product_id": HERE, "quantity": 1}], "expires_in_s": 60},
        ),
        ("GET", f"/products?id={HERE}&id={THERE}", None),
    ],
)
@pytest.mark.usefixtures("untouched")
async def test_what_crosses_pairs_is_refused_with_the_ids_of_each(
    client: httpx.AsyncClient, method: str, path: str, body: object
) -> None:
    """Nothing of it is done: there is no transaction over several databases."""
    document = problem(await send(client, method, path, body), "several-pairs")
    assert (document["here"], document["elsewhere"]) == ([HERE], [THERE])


async def test_a_retry_over_two_pairs_reaches_the_stored_answers(service: Service, client: httpx.AsyncClient) -> None:
    """It may have been answered before one of its buckets moved: the transaction looks for that before it refuses."""
    body = {"lines": [{"product_id": HERE, "delta": 1}, {"product_id": THERE, "delta": 1}], "reason": "receipt"}
    await send(client, "POST", "/stock/adjustments", body, {"Idempotency-Key": "one"})
    assert len(service.transactions.requests) == 1


async def test_what_was_accepted_keeps_the_ids_that_were_made(service: Service) -> None:
    """A move waits for the products that were recorded; another id at each decoding could be in any bucket."""
    decode = Decoder(service.app, lambda _request, render: render)
    for operation, path, body, recorded in (
        ("createProduct", "/products", MUG, ["made"]),
        ("batchProducts", "/products/batch", {"items": [MUG, MUG | {"id": HERE}, {}, MUG]}, ["first", HERE, "second"]),
    ):
        sent = AcceptedWrite("", "k", b"", recorded, operation, path, "[]", json.dumps(body).encode(), "r")
        assert list((await decode(sent)).command.keys) == recorded


async def test_a_reservation_that_replaces_one_of_another_pair_is_refused(client: httpx.AsyncClient) -> None:
    """Its lines are of this pair, and the reservation that it replaces is not."""
    body = {"lines": [{"product_id": HERE, "quantity": 1}], "expires_in_s": 60, "replaces": NOT_MADE}
    assert problem(await send(client, "POST", "/reservations", body), "several-pairs")["elsewhere"] == [NOT_MADE]


async def test_what_is_here_works(client: httpx.AsyncClient) -> None:
    """Products and reservations of the pair's own buckets, whole requests over several of them, and lists."""
    assert (await client.post("/products/batch", json={"items": [MUG | {"id": HERE}, MUG | {"id": ALSO_HERE}]})).is_success
    assert (await client.get(f"/products?id={HERE}&id={ALSO_HERE}")).json()["missing"] == []
    lines = [{"product_id": key, "quantity": 1} for key in (HERE, ALSO_HERE)]
    held = await client.post("/reservations", json={"lines": lines, "expires_in_s": 60})
    assert held.status_code == 201
    assert (await client.post(f"{held.headers['Location']}/commit", json={})).is_success
    assert [product["stock"] for product in (await client.get("/products")).json()["items"]] == [4, 4]


async def test_ids_that_the_service_makes_are_here(client: httpx.AsyncClient) -> None:
    """They are in one of the pair's buckets, or in the one that is named; reservations are where their first product is."""
    made = [(await client.post("/products", json=MUG)).json()["id"] for _ in range(20)]
    assert {bucket_of(product_id) for product_id in made} <= {0, 1, 2, 3}
    named = {"Larder-Bucket": "2"}
    assert bucket_of((await client.post("/products", json=MUG, headers=named)).json()["id"]) == 2
    batch = await client.post("/products/batch", json={"items": [MUG, MUG]}, headers=named)
    assert [bucket_of(result["id"]) for result in batch.json()["results"]] == [2, 2]
    line = {"product_id": made[0], "quantity": 1}
    held = await client.post("/reservations", json={"lines": [line], "expires_in_s": 60})
    assert bucket_of(held.json()["id"]) == bucket_of(made[0])


@pytest.mark.usefixtures("untouched")
async def test_the_named_bucket_has_to_be_here(client: httpx.AsyncClient) -> None:
    """A collection has no id in its path: the header alone says that the request took the wrong way."""
    for path in ("/products", "/changes", "/stock/movements?reference=x"):
        assert problem(await client.get(path, headers={"Larder-Bucket": "4"}), "not-here")["bucket"] == 4
    for value in ("", "x", "1024", "-1", "0x1"):
        problem(await client.get("/products", headers={"Larder-Bucket": value}), "invalid-header")
    twice = [("Larder-Bucket", "1"), ("Larder-Bucket", "1")]
    problem(await client.get("/products", headers=twice), "invalid-header")


@pytest.mark.usefixtures("untouched")
async def test_whoever_may_not_ask_is_not_told(service: Service, client: httpx.AsyncClient) -> None:
    """401, 403 and 429 come before 421; an id that no product can have is 422 wherever it belongs."""
    keys, clock = MemoryKeys(), Clock()
    ring = KeyRing([keys], limits=Limits(1e6, 9, 9), clock=clock)
    header = keys.add("till", frozenset({Scope.PRODUCTS_READ})).decode()
    await ring.renew()
    problem(await client.get("/products/%20"), "invalid-request")
    service.app.state.larder = replace(service.app.state.larder, admission=Admission(ring, clock=clock))
    problem(await client.get(f"/products/{THERE}"), "unauthenticated")
    problem(await client.delete(f"/products/{THERE}", headers={"Authorization": header}), "forbidden")
    problem(await client.get(f"/products/{THERE}", headers={"Authorization": header}), "not-here")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/products/{HERE}", {}),
        (f"/products?id={HERE}", {}),
        (f"/products/{HERE}/stock/movements", {}),
        (f"/reservations/{moved_to(3, '0' * 32)}", {}),
        (f"/reservations?product_id={HERE}", {}),
        ("/products", {"Larder-Bucket": "3"}),
    ],
)
async def test_a_read_whose_products_leave_meanwhile_is_not_answered(
    service: Service, client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    """It was checked before they left, and it would say that there is nothing."""
    larder: Larder = service.app.state.larder
    assert larder.pair is not None
    for moving, refusal in (("3", "bucket-moving"), ("", "not-here")):
        larder.pair.set_buckets("0-3", "")
        service.products.during = partial(larder.pair.set_buckets, "0-2", moving)
        assert problem(await client.get(path, headers=headers), refusal)["bucket"] == 3


async def test_a_read_that_took_too_long_is_not_answered(service: Service, client: httpx.AsyncClient) -> None:
    """What the process knew when the read began may not be so any more."""
    larder: Larder = service.app.state.larder
    assert larder.pair is not None
    service.products.during = larder.pair.refuse_until_read
    problem(await client.get(f"/products/{HERE}"), "database-unavailable")


async def test_a_write_that_was_carried_out_is_answered(service: Service, client: httpx.AsyncClient) -> None:
    """Its transaction has read the buckets behind its locks: what the process learns afterwards changes nothing."""
    larder: Larder = service.app.state.larder
    assert larder.pair is not None
    service.products.during = partial(larder.pair.set_buckets, "0-2", "3")
    assert (await client.put(f"/products/{HERE}", json=MUG)).status_code == 201
    problem(await client.put(f"/products/{HERE}", json=MUG), "bucket-moving")


async def test_readiness_shows_what_is_here(service: Service, client: httpx.AsyncClient) -> None:
    """After a move, the settings differ from the database, by which the instance goes on."""
    larder: Larder = service.app.state.larder
    assert larder.pair is not None
    larder.pair.set_buckets("0-2", "2")
    found = (await client.get("/readyz")).json()
    assert (found["buckets"], found["moving"], found["configured"]) == ("0-2", "2", "0-3")


async def test_a_hot_read_of_another_pair_is_refused_before_the_cache(service: Service, port: Port) -> None:
    """Neither a parsed nor a known head leads to a slot, even if the slot is filled. What is here is a hit."""
    service.products.hot = True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service.app), base_url="http://larder") as client:
        await client.put(f"/products/{HERE}", json=MUG)
        assert (await client.get(f"/products/{HERE}")).is_success
    service.products.slots[THERE] = service.products.slots[HERE]
    async with connection(port) as (reader, writer):

        async def status_of(product_id: str) -> bytes:
            writer.write(f"GET /products/{product_id} HTTP/1.1\r\nHost: larder\r\n\r\n".encode())
            return (await answer_of(reader))[9:12]

        before = len(service.products.reads)
        assert [await status_of(name) for name in (THERE, HERE, HERE, THERE, HERE)] == [b"421", b"200", b"200", b"421", b"200"]
        assert len(service.products.reads) == before


async def test_without_pairs_the_header_names_a_bucket_for_ids() -> None:
    """A client can name buckets before the products are divided, so that what it writes can be divided later."""
    service: Any = new_service()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service.app), base_url="http://larder") as client:
        made = await client.post("/products", json=MUG, headers={"Larder-Bucket": "700"})
        assert bucket_of(made.json()["id"]) == 700
        for path in ("/products", "/stock/adjustments", "/reservations"):
            problem(await client.post(path, json={}, headers={"Larder-Bucket": "1024"}), "invalid-header")
        assert (await client.put(f"/products/{THERE}", json=MUG)).status_code == 201

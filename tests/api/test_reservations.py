"""Reservations over HTTP: their forms, conditions, refusals and lists."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.api.problem import places as places_of
from tests.api.problem import problem as problem_of
from tests.fakes.products import MemoryProducts

URL = "/reservations"
Answer = dict[str, Any]
NOBODY = "0" * 32


def problem(answer: httpx.Response, slug: str) -> Answer:
    return dict(problem_of(answer, slug))


def places(answer: httpx.Response) -> list[str]:
    return places_of(problem(answer, "invalid-request"))


async def hold(client: httpx.AsyncClient, quantity: int = 2, **more: object) -> httpx.Response:
    line = {"product_id": "mug-blue", "quantity": quantity}
    return await client.post(URL, json={"lines": [line], "expires_in_s": 600} | more)


@pytest.fixture
async def held(client: httpx.AsyncClient, mug: Answer) -> Answer:
    """A reservation of two blue mugs."""
    assert mug["stock"] == 40
    answer = await hold(client, reference="cart-9")
    assert answer.status_code == 201
    document: Answer = answer.json()
    assert answer.headers["Location"] == f"{URL}/{document['id']}"
    assert answer.headers["ETag"] == '"1"'
    return document


async def change(client: httpx.AsyncClient, held: Answer, verb: str, body: object = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(f"{URL}/{held['id']}/{verb}", json=body or {}, headers=named)


async def test_a_reservation_is_answered_in_full(client: httpx.AsyncClient, held: Answer) -> None:
    """All members in their order; the product shows what is held and what is free."""
    assert list(held) == ["id", "reference", "status", "lines", "expires_at", "version", "created_at", "updated_at"]
    assert held["lines"] == [{"line": 0, "product_id": "mug-blue", "quantity": 2, "committed": 0, "released": 0, "expired": 0}]
    assert (held["status"], held["reference"], held["version"]) == ("held", "cart-9", 1)
    product = (await client.get("/products/mug-blue")).json()
    assert (product["stock"], product["reserved"], product["available"], product["version"]) == (40, 2, 38, 2)
    read = await client.get(f"{URL}/{held['id']}")
    assert read.json() == held
    assert (read.headers["ETag"], read.headers["Cache-Status"]) == ('"1"', "larder; fwd=bypass")


async def test_commit_and_what_follows(client: httpx.AsyncClient, held: Answer) -> None:
    """Sold once: a second commit and a release say so; the ledger names the reservation."""
    sold = await change(client, held, "commit", {"reference": "order-17"})
    assert (sold.status_code, sold.json()["status"], sold.headers["ETag"]) == (200, "committed", '"2"')
    for verb in ("commit", "release"):
        closed = problem(await change(client, held, verb), "reservation-closed")
        assert (closed["reservation_id"], closed["reservation_status"]) == (held["id"], "committed")
        assert (closed["status"], closed["current_version"]) == (409, 2)
    assert problem(await change(client, held, "extend", {"expires_in_s": 9}), "reservation-closed")
    [sale] = (await client.get("/stock/movements?reference=order-17")).json()["items"]
    assert (sale["reason"], sale["delta"], sale["reserved_delta"], sale["reservation_id"]) == ("sale", -2, -2, held["id"])


async def test_part_of_a_reservation(client: httpx.AsyncClient, held: Answer) -> None:
    """What becomes of the rest has to be said; more than is open is refused line by line."""
    lines = [{"line": 0, "quantity": 1}]
    assert problem(await change(client, held, "commit", {"lines": lines}), "invalid-request")
    assert problem(await change(client, held, "commit", {"rest": "keep"}), "invalid-request")
    more = problem(await change(client, held, "release", {"lines": [{"line": 0, "quantity": 3}]}), "not-held")
    assert more["lines"] == [{"line": 0, "open": 2, "requested": 3}]
    kept = await change(client, held, "commit", {"lines": lines, "rest": "keep"})
    assert (kept.json()["status"], kept.json()["expires_at"]) == ("held", held["expires_at"])
    gone = await change(client, held, "commit", {"lines": lines, "rest": "release"})
    assert gone.json()["status"] == "committed"


async def test_an_ended_reservation(client: httpx.AsyncClient, tables: MemoryProducts, held: Answer) -> None:
    """Whoever is told that it has ended is told of a committed fact; its release is no error."""
    tables.now += timedelta(seconds=601)
    assert (await client.get(f"{URL}/{held['id']}")).json()["status"] == "held"  # nobody has needed the units
    ended = problem(await change(client, held, "commit"), "reservation-expired")
    assert (ended["expires_at"], ended["current_version"]) == (held["expires_at"], 2)
    read = (await client.get(f"{URL}/{held['id']}")).json()
    assert (read["status"], read["lines"][0]["expired"]) == ("expired", 2)
    assert (await client.get("/products/mug-blue")).json()["available"] == 40
    assert problem(await change(client, held, "extend", {"expires_in_s": 9}), "reservation-expired")
    assert (await change(client, held, "release")).json() == read


async def test_units_of_an_ended_reservation_are_free(client: httpx.AsyncClient, tables: MemoryProducts, held: Answer) -> None:
    """The next who needs them gets them; until then they are free without anybody seeing it."""
    assert problem(await hold(client, 39), "insufficient-stock")["shortages"][0]["available"] == 38
    tables.now += timedelta(seconds=601)
    assert (await client.get("/products/mug-blue")).json()["available"] == 38
    assert (await hold(client, 40)).status_code == 201
    product = (await client.get("/products/mug-blue")).json()
    assert (product["reserved"], product["available"]) == (40, 0)
    assert (await client.get(f"{URL}/{held['id']}")).json()["status"] == "expired"


async def test_conditions(client: httpx.AsyncClient, held: Answer) -> None:
    """If-Match on every change, 304 and 412 on a read; a condition that cannot be meant is refused."""
    one = f"{URL}/{held['id']}"
    assert (await client.get(one, headers={"If-None-Match": '"1"'})).status_code == 304
    assert problem(await client.get(one, headers={"If-Match": '"2"'}), "precondition-failed")["current_version"] == 1
    for verb, body in (("extend", {"expires_in_s": 900}), ("commit", {}), ("release", {})):
        refused = await change(client, held, verb, body, If_Match='"7"')
        assert problem(refused, "precondition-failed")["current_version"] == 1
        assert problem(await change(client, held, verb, body, If_None_Match="*"), "invalid-header")
    assert (await change(client, held, "extend", {"expires_in_s": 900}, If_Match='"1"')).json()["version"] == 2
    assert problem(await client.post(URL, json={}, headers={"If-Match": '"1"'}), "invalid-header")


async def test_an_idempotency_key_holds_once(client: httpx.AsyncClient, mug: Answer) -> None:
    """The repetition gets the same reservation; a refusal is kept, too."""
    key = {"Idempotency-Key": "cart"}
    body = {"lines": [{"product_id": mug["id"], "quantity": 2}], "expires_in_s": 9}
    first = await client.post(URL, json=body, headers=key)
    again = await client.post(URL, json=body, headers=key)
    assert again.content == first.content
    assert (again.status_code, again.headers["Location"]) == (201, first.headers["Location"])
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (await client.get("/products/mug-blue")).json()["reserved"] == 2
    for _ in range(2):
        sold = await change(client, first.json(), "commit", Idempotency_Key="pay")
        assert sold.json()["status"] == "committed"


async def test_values_out_of_range(client: httpx.AsyncClient, held: Answer) -> None:
    """Each wrong value is named; a life beyond thirty days is refused when it is asked for."""
    wrong: list[tuple[object, str]] = [
        ({"lines": [], "expires_in_s": 9}, "#/lines"),
        ({"lines": [{"product_id": "a", "quantity": 0}], "expires_in_s": 9}, "#/lines/0/quantity"),
        ({"lines": [{"product_id": "..", "quantity": 1}], "expires_in_s": 9}, "#/lines/0/product_id"),
        ({"lines": [{"product_id": "a", "quantity": 1}], "expires_in_s": 0}, "#/expires_in_s"),
        ({"lines": [{"product_id": "a", "quantity": 1}], "expires_in_s": 604_801}, "#/expires_in_s"),
        ({"lines": [{"product_id": "a", "quantity": 1}], "expires_in_s": 9, "id": "mine"}, "#/id"),
        ({"lines": [{"product_id": "a", "quantity": 1, "location_id": "x"}], "expires_in_s": 9}, "#/lines/0/location_id"),
    ]
    for body, place in wrong:
        assert place in places(await client.post(URL, json=body))
    assert problem(await change(client, held | {"id": NOBODY}, "commit"), "reservation-not-found")["reservation_id"] == NOBODY
    for key in ("x", "%00", "0" * 33):
        assert problem(await client.get(f"{URL}/{key}"), "reservation-not-found")


async def test_a_life_of_thirty_days_at_most(client: httpx.AsyncClient, tables: MemoryProducts, held: Answer) -> None:
    """Extending goes on until then, and is refused beyond."""
    for _ in range(4):
        assert (await change(client, held, "extend", {"expires_in_s": 604_800})).status_code == 200
        tables.now += timedelta(seconds=600_000)
    refused = await change(client, held, "extend", {"expires_in_s": 604_800})
    assert places(refused) == ["#/expires_in_s"]


async def test_a_list_goes_page_by_page_with_the_same_filters(client: httpx.AsyncClient, held: Answer) -> None:
    """By reference or by product, newest first, page by page with the same filters."""
    second = (await hold(client, reference="cart-9")).json()
    await change(client, held, "release")
    named = (await client.get(f"{URL}?reference=cart-9&limit=1")).json()
    assert [item["id"] for item in named["items"]] == [second["id"]]
    rest = (await client.get(URL, params={"reference": "cart-9", "limit": 1, "after": named["next"]})).json()
    assert [item["id"] for item in rest["items"]] == [held["id"]]
    assert rest["next"] is None
    released = (await client.get(f"{URL}?reference=cart-9&status=released")).json()["items"]
    assert [item["id"] for item in released] == [held["id"]]
    holding = (await client.get(f"{URL}?product_id=mug-blue")).json()["items"]
    assert [item["id"] for item in holding] == [second["id"]]
    assert places(await client.get(URL)) == ["reference"]
    assert places(await client.get(f"{URL}?reference=a&product_id=b")) == ["reference"]
    assert places(await client.get(f"{URL}?reference=a&status=lost")) == ["status"]
    assert places(await client.get(URL, params={"reference": "other", "after": named["next"]})) == ["after"]


async def test_a_held_product_is_not_deleted(client: httpx.AsyncClient, held: Answer) -> None:
    """The refusal says how many units are held; a fact may take them, an old client's sale may not."""
    refused = problem(await client.delete("/products/mug-blue"), "product-reserved")
    assert (refused["product_id"], refused["reserved"], refused["current_version"]) == ("mug-blue", 2, 2)
    sale = {"delta": -40, "reason": "sale"}
    adjust = "/products/mug-blue/stock/adjustments"
    assert problem(await client.post(adjust, json=sale), "insufficient-stock")
    assert problem(await client.post("/stock/adjustments", json={"lines": [{"product_id": "mug-blue", "delta": -40}],
                                                                 "reason": "sale"}), "insufficient-stock")  # fmt: skip
    assert (await client.post(adjust, json=sale | {"take_reserved": True})).json()["product"]["available"] == 0
    assert problem(await change(client, held, "commit"), "insufficient-stock")["shortages"][0]["available"] == 0


async def test_uncovered_products_are_listed(client: httpx.AsyncClient) -> None:
    """Those of which a count has found less than is held; the link keeps the filter."""
    for product_id in ("cup", "pot"):
        await client.put(f"/products/{product_id}", json={"name": product_id, "price_cents": 1, "stock": 2})
        body = {"lines": [{"product_id": product_id, "quantity": 2}], "expires_in_s": 9}
        assert (await client.post(URL, json=body)).status_code == 201
        assert (await client.put(f"/products/{product_id}/stock", json={"stock": 1})).status_code == 200
    first = await client.get("/products?uncovered=true&limit=1")
    assert [item["id"] for item in first.json()["items"]] == ["cup"]
    rest = await client.get(f"/products?uncovered=true&after={first.json()['next']}")
    assert [item["id"] for item in rest.json()["items"]] == ["pot"]
    assert places(await client.get(f"/products?after={first.json()['next']}")) == ["after"]
    assert [item["available"] for item in rest.json()["items"]] == [0]
    named = await client.get("/products?uncovered=true&q=P")
    assert [item["id"] for item in named.json()["items"]] == ["pot"]


async def test_a_reservation_that_replaces_another(client: httpx.AsyncClient, held: Answer) -> None:
    """Its own units are free for it, in one version of the product; if it is refused, the old one stays."""
    again = await hold(client, 40, replaces=held["id"], reference="cart-9")
    assert again.status_code == 201
    assert (await client.get(f"{URL}/{held['id']}")).json()["status"] == "released"
    product = (await client.get("/products/mug-blue")).json()
    assert (product["reserved"], product["version"]) == (40, 3)
    entries = (await client.get("/products/mug-blue/stock/movements?limit=2")).json()["items"]
    assert sorted((entry["reason"], entry["reserved_delta"], entry["line"]) for entry in entries) == [
        ("hold", 40, 0), ("release", -2, 1),
    ]  # fmt: skip
    refused = problem(await hold(client, 41, replaces=again.json()["id"]), "insufficient-stock")
    assert refused["shortages"][0]["available"] == 40
    assert (await client.get(f"{URL}/{again.json()['id']}")).json()["status"] == "held"
    assert (await change(client, again.json(), "commit", {"lines": [{"line": 0, "quantity": 1}], "rest": "keep"})).is_success
    last = await hold(client, 39, replaces=again.json()["id"])
    assert last.status_code == 201
    await change(client, last.json(), "commit")
    closed = problem(await hold(client, 1, replaces=last.json()["id"]), "reservation-closed")
    assert closed["reservation_status"] == "committed"
    assert problem(await hold(client, 1, replaces=NOBODY), "reservation-not-found")
    assert places(await hold(client, 1, replaces="mine")) == ["#/replaces"]


async def test_an_ended_reservation_is_replaced(client: httpx.AsyncClient, tables: MemoryProducts, held: Answer) -> None:
    """It has nothing to give up any more, and is no obstacle."""
    tables.now += timedelta(seconds=601)
    assert (await hold(client, 40, replaces=held["id"])).status_code == 201
    assert (await client.get(f"{URL}/{held['id']}")).json()["status"] == "expired"

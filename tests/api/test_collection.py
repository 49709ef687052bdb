"""The collection over HTTP: create, read many, list, batch."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.api.list_queries import ProductListQuery
from app.cache.ports import Absent
from app.cache.write_through import Read, Status
from app.products.product import Position
from tests.api.conftest import Front, Service, link_of, walk
from tests.api.problem import places, problem
from tests.fakes.products import EPOCH


@pytest.fixture
async def shelf(client: httpx.AsyncClient) -> list[str]:
    """Products a to e, whose names order otherwise than their ids."""
    for product_id, name in (("a", "Teapot"), ("b", "tea cup"), ("c", "Mug"), ("d", "TEA"), ("e", "mug")):
        await client.post("/products", json={"id": product_id, "name": name, "price_cents": 1})
    return list("abcde")


async def _ids(client: httpx.AsyncClient, url: str) -> list[str]:
    return [item["id"] for item in (await client.get(url)).json()["items"]]


async def test_a_created_product_is_answered_with_its_place(client: httpx.AsyncClient) -> None:
    """201, Location, tag; stock and reorder point default to 0."""
    answer = await client.post("/products", json={"id": "a:b.c", "name": "Mug", "price_cents": 1})
    assert (answer.status_code, answer.headers["Location"], answer.headers["ETag"]) == (201, "/products/a:b.c", '"1"')
    assert (answer.json()["stock"], answer.json()["reorder_point"]) == (0, 0)
    assert (await client.get(answer.headers["Location"])).content == answer.content
    again = await client.post("/products", json={"id": "a:b.c", "name": "Other", "price_cents": 2})
    assert problem(again, "already-exists")["current_version"] == 1


async def test_an_id_that_was_left_out_is_made(client: httpx.AsyncClient) -> None:
    """Each creation gets one of its own."""
    answers = [await client.post("/products", json={"name": "Mug", "price_cents": 1}) for _ in range(2)]
    first, second = (answer.json()["id"] for answer in answers)
    assert first != second
    assert answers[0].headers["Location"] == f"/products/{first}"


@pytest.mark.usefixtures("shelf")
async def test_read_many_answers_in_the_order_first_sent(client: httpx.AsyncClient) -> None:
    """Duplicates once, absent ones listed, the items' bytes those of the single reads."""
    answer = await client.get("/products?id=c&id=x&id=a&id=c&id=x&id=y")
    items = b",".join([(await client.get(f"/products/{product_id}")).content for product_id in "ca"])
    assert answer.content == b'{"items":[' + items + b'],"missing":["x", "y"]}'
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("served", "header"),
    [
        ("hh", "larder; hit"),
        ("hm", 'larder; fwd=miss; detail="hits=1 misses=1"'),
        ("ss", 'larder; fwd=miss; detail="hits=0 misses=2"'),
        ("hb", "larder; fwd=bypass; detail=unproven"),
        ("rr", "larder; fwd=request; stored"),
        ("hu", "larder; hit; detail=unverified"),
        ("uu", "larder; hit; detail=unverified"),
        ("bu", "larder; fwd=miss; detail=unverified"),
    ],
)
async def test_read_many_says_how_the_least_favourable_was_served(
    client: httpx.AsyncClient, front: Front, served: str, header: str
) -> None:
    """Hit only if all were; one unverified product flags the whole answer."""
    ways = {
        "h": Read(Absent("", EPOCH, 0), Status.HIT),
        "m": Read(Absent("", EPOCH, 0), Status.MISS),
        "s": Read(Absent("", EPOCH, 0), Status.STORED),
        "b": Read(Absent("", EPOCH, 0), Status.BYPASS, "unproven"),
        "r": Read(Absent("", EPOCH, 0), Status.REFRESHED_STORED),
        "u": Read(Absent("", EPOCH, 0), Status.UNVERIFIED, "unverified"),
    }
    front.served = {str(index): ways[way] for index, way in enumerate(served)}
    answer = await client.get("/products?id=0&id=1")
    assert answer.headers["Cache-Status"] == header


async def test_the_list_is_walked_by_its_links(client: httpx.AsyncClient, shelf: list[str]) -> None:
    """Every product once, by id; the link keeps the limit."""
    pages = await walk(client, "/products?limit=2")
    assert [[item["id"] for item in page] for page in pages] == [shelf[:2], shelf[2:4], shelf[4:]]
    assert link_of(await client.get("/products?limit=2")).startswith("/products?limit=2&after=")


@pytest.mark.usefixtures("shelf")
async def test_a_prefix_is_searched_whatever_its_case(client: httpx.AsyncClient) -> None:
    """Ordered by name, then id; the link carries the prefix."""
    assert await _ids(client, "/products?q=TeA") == ["d", "b", "a"]
    assert await _ids(client, "/products?q=mug") == ["c", "e"]
    first = await client.get("/products?q=TeA&limit=1")
    link = link_of(first)
    assert link.startswith("/products?limit=1&q=TeA&after=")
    assert await _ids(client, link) == ["b"]


async def test_what_should_be_ordered_again_is_listed_by_id(client: httpx.AsyncClient) -> None:
    """Stock below the reorder point, not at it; a prefix thins the list out and leaves its order; the link has the filters."""
    for product_id, name, stock in (("c", "a tea", 1), ("a", "b tea", 2), ("b", "a mug", 0), ("d", "a pot", 3), ("e", "x", 0)):
        body = {"id": product_id, "name": name, "price_cents": 1, "stock": stock, "reorder_point": 3}
        await client.post("/products", json=body)
    assert await _ids(client, "/products?below_reorder_point=true") == ["a", "b", "c", "e"]
    assert await _ids(client, "/products?below_reorder_point=false") == list("abcde")
    assert await _ids(client, "/products?below_reorder_point=true&q=A") == ["b", "c"]
    first = await client.get("/products?below_reorder_point=true&q=A&limit=1")
    link = link_of(first)
    assert link.startswith("/products?limit=1&q=A&below_reorder_point=true&after=")
    assert await _ids(client, link) == ["c"]
    problem(await client.get(link.replace("&below_reorder_point=true", "")), "invalid-request")


async def test_the_largest_legal_queries_are_answered(client: httpx.AsyncClient) -> None:
    """The limits themselves are allowed."""
    query = "&".join(f"id=a{index}" for index in range(250))
    assert len((await client.get(f"/products?{query}")).json()["missing"]) == 250
    assert (await client.get("/products?limit=250&q=" + "a" * 200)).status_code == 200


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("prefix", ["", "tea", 'a"b\\', "🍵"])
def test_a_cursor_gives_back_its_position_to_its_own_filters_alone(prefix: str, below: bool) -> None:  # noqa: FBT001
    """A cursor of one list does not lead into the middle of another."""
    listed = ProductListQuery(50, prefix, below)
    position = Position("a:b", "tea cup" if prefix and not below else "")
    cursor = listed.next_page(position).cursor
    assert listed.position(cursor) == position
    assert replace(listed, prefix=prefix + "x").position(cursor) is None
    assert replace(listed, below_reorder_point=not below).position(cursor) is None


async def test_a_batch_answers_for_each_item_in_its_place(client: httpx.AsyncClient, service: Service) -> None:
    """Good items are written together; each bad one is refused with its own problem and disturbs none."""
    await client.post("/products", json={"id": "old", "name": "Old", "price_cents": 1, "stock": 5})
    await client.post("/products", json={"id": "same", "name": "Same", "price_cents": 1})
    items: list[Any] = [
        {"id": "new", "name": "New", "price_cents": 1, "stock": 7},
        {"id": "old", "name": "Old", "price_cents": 2},
        {"id": "same", "name": "Same", "price_cents": 1},
        {"id": "new", "name": "Again", "price_cents": 1},
        {"id": "..", "name": "Mug", "price_cents": 1},
        {"id": "bad", "name": "", "price_cents": "1"},
        {"name": "Made", "price_cents": 1},
        None,
        {"id": "bad", "name": "Good", "price_cents": 1},
    ]
    answer = await client.post("/products/batch", json={"items": items})
    results = answer.json()["results"]
    made = results[6].pop("id")
    assert [result for result in results if result["outcome"] != "refused"] == [
        {"index": 0, "id": "new", "outcome": "created", "version": 1},
        {"index": 1, "id": "old", "outcome": "updated", "version": 2},
        {"index": 2, "id": "same", "outcome": "unchanged", "version": 1},
        {"index": 6, "outcome": "created", "version": 1},
    ]
    refused = {result["index"]: (result["id"], result["problem"]) for result in results if result["outcome"] == "refused"}
    assert {index: product_id for index, (product_id, _) in refused.items()} == {3: "new", 4: None, 5: "bad", 7: None, 8: "bad"}
    assert refused[3][1]["type"] == refused[8][1]["type"] == "/problems/repeated-product"
    assert places(refused[4][1]) == ["#/items/4/id"]
    assert places(refused[5][1]) == ["#/items/5/name", "#/items/5/price_cents"]
    assert places(refused[7][1]) == ["#/items/7"]
    assert {problem["status"] for _, problem in refused.values()} == {422}
    assert len(service.transactions.requests) == 3  # two creations and one transaction
    stocks = [(await client.get(f"/products/{product_id}")).json()["stock"] for product_id in ("new", "old", made)]
    assert stocks == [7, 5, 0]


async def test_a_batch_with_no_good_item_writes_nothing(client: httpx.AsyncClient, service: Service) -> None:
    """It is an answered request all the same."""
    answer = await client.post("/products/batch", json={"items": [{}]})
    assert (answer.status_code, answer.json()["results"][0]["outcome"]) == (200, "refused")
    assert service.tables.rows == {}


@pytest.mark.parametrize("member", ["version", "created_at", "updated_at", "reserved", "available"])
async def test_what_this_release_or_the_next_one_shows_can_be_sent_back(client: httpx.AsyncClient, member: str) -> None:
    """PUT and batch items ignore the members that the service writes itself; POST refuses them."""
    product = {"id": "a", "name": "A", "price_cents": 1, member: "whatever it was"}
    assert (await client.put("/products/a", json=product)).status_code == 201
    assert (await client.post("/products/batch", json={"items": [product]})).status_code == 200
    assert (await client.post("/products", json=product | {"id": "b"})).status_code == 422

"""Stock over HTTP: adjustments of one product and of many, and the ledger."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import walk
from tests.api.problem import places, problem, send
from tests.fakes.products import MemoryProducts

URL = "/products/mug-blue"
ADJUST = f"{URL}/stock/adjustments"
MANY = "/stock/adjustments"
MAX = 2**53 - 1
Mug = dict[str, Any]


async def _adjust(client: httpx.AsyncClient, delta: int, **more: object) -> httpx.Response:
    return await client.post(ADJUST, json={"delta": delta, "reason": "sale"} | more)


async def test_an_adjustment_answers_with_the_product_and_its_movement(client: httpx.AsyncClient, mug: Mug) -> None:
    """The product as a GET gives it, with its tag; the movement with all that the contract names, in its order."""
    answer = await _adjust(client, -3, reference="order-17")
    assert (answer.status_code, answer.headers["ETag"], answer.headers["Cache-Control"]) == (200, '"2"', "no-cache")
    document = answer.json()
    product = (await client.get(URL)).json()
    now = {"stock": 37, "available": 37, "version": 2, "updated_at": product["updated_at"]}
    assert document["product"] == product == mug | now
    movement = document["movement"]
    assert list(movement) == [
        "id", "product_id", "version", "line", "delta", "stock_after", "reason", "reference", "created_at",
        "reserved_delta", "reserved_after", "reservation_id",
    ]  # fmt: skip
    identity, created_at = movement.pop("id"), movement.pop("created_at")
    assert movement == {
        "product_id": "mug-blue", "version": 2, "line": 0, "delta": -3, "stock_after": 37, "reason": "sale",
        "reference": "order-17", "reserved_delta": 0, "reserved_after": 0, "reservation_id": None,
    }  # fmt: skip
    ledger = (await client.get(f"{URL}/stock/movements")).json()
    assert ledger["items"][0] == document["movement"] | {"id": identity, "created_at": created_at}


@pytest.mark.parametrize("reason", ["sale", "return", "receipt", "damage", "correction", "other"])
@pytest.mark.parametrize("delta", [1, -1])
@pytest.mark.usefixtures("mug")
async def test_every_reason_takes_either_sign(client: httpx.AsyncClient, reason: str, delta: int) -> None:
    """The reason says why, not which way; a reference is not needed, and null is none."""
    answer = await _adjust(client, delta, reason=reason, reference=None)
    assert answer.json()["product"]["stock"] == 40 + delta
    movement = answer.json()["movement"]
    assert (movement["reason"], movement["reference"]) == (reason, None)


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"delta": 0}, ["#/delta"]),
        ({"delta": MAX + 1}, ["#/delta"]),
        ({"delta": -MAX - 1}, ["#/delta"]),
        ({"delta": 1.0}, ["#/delta"]),
        ({"delta": "1"}, ["#/delta"]),
        ({"delta": True}, ["#/delta"]),
        ({"delta": None}, ["#/delta"]),
        ({"reason": "opening"}, ["#/reason"]),
        ({"reason": "count"}, ["#/reason"]),
        ({"reason": "deletion"}, ["#/reason"]),
        ({"reason": "Sale"}, ["#/reason"]),
        ({"reason": []}, ["#/reason"]),
        ({"reference": ""}, ["#/reference"]),
        ({"reference": "x" * 201}, ["#/reference"]),
        ({"reference": "a\x00"}, ["#/reference"]),
        ({"reference": "\ud800"}, ["#/reference"]),
        ({"stock": 1}, ["#/stock"]),
    ],
)
@pytest.mark.usefixtures("mug")
async def test_an_adjustment_that_breaks_a_rule_is_refused(client: httpx.AsyncClient, change: Mug, pointers: list[str]) -> None:
    """Strict integers other than 0 within 2^53-1, the six reasons, a reference that can be asked for."""
    line = {"product_id": "mug-blue", "delta": 1}
    one = await send(client, "POST", ADJUST, {"delta": 1, "reason": "sale"} | change)
    assert places(problem(one, "invalid-request")) == pointers
    if "delta" in change:
        line |= change
        change, pointers = {}, ["#/lines/1/delta"]
    many = await send(client, "POST", MANY, {"lines": [{"product_id": "a", "delta": 1}, line], "reason": "sale"} | change)
    assert places(problem(many, "invalid-request")) == pointers


@pytest.mark.usefixtures("mug")
async def test_lines_are_answered_in_the_order_sent(client: httpx.AsyncClient) -> None:
    """Each with its own delta; those of one product with the version and stock of the whole request."""
    await client.post("/products", json={"id": "cup", "name": "Cup", "price_cents": 1, "stock": 1})
    lines = [("mug-blue", -41), ("cup", 5), ("mug-blue", 2), ("cup", -6)]
    sent = [{"product_id": product_id, "delta": delta} for product_id, delta in lines]
    answer = await client.post(MANY, json={"lines": sent, "reason": "sale", "reference": "order-18"})
    assert answer.json() == {
        "lines": [
            {"product_id": "mug-blue", "delta": -41, "stock": 1, "version": 2},
            {"product_id": "cup", "delta": 5, "stock": 0, "version": 2},
            {"product_id": "mug-blue", "delta": 2, "stock": 1, "version": 2},
            {"product_id": "cup", "delta": -6, "stock": 0, "version": 2},
        ]
    }
    assert "ETag" not in answer.headers
    ledger = (await client.get("/stock/movements?reference=order-18")).json()["items"]
    assert {(m["product_id"], m["line"], m["delta"], m["stock_after"], m["version"]) for m in ledger} == {
        ("mug-blue", 0, -41, 1, 2), ("cup", 1, 5, 0, 2), ("mug-blue", 2, 2, 1, 2), ("cup", 3, -6, 0, 2),
    }  # fmt: skip


@pytest.mark.usefixtures("mug")
async def test_what_cannot_be_taken_is_said_exactly(client: httpx.AsyncClient, tables: MemoryProducts) -> None:
    """409 with each product that lacks stock; 409 above the limit; 404 with all that are missing; nothing is done."""
    short = problem(await _adjust(client, -41), "insufficient-stock")
    exactly = {"product_id": "mug-blue", "available": 40, "requested": 41, "version": 1, "stock": 40, "reserved": 0}
    assert short["shortages"] == [exactly]
    assert problem(await _adjust(client, MAX), "stock-limit")["product_ids"] == ["mug-blue"]
    lines = [{"product_id": product_id, "delta": -MAX} for product_id in ("none", "mug-blue", "nil", "none")]
    missing = problem(await client.post(MANY, json={"lines": lines, "reason": "sale"}), "product-not-found")
    assert missing["missing"] == ["none", "nil"]
    huge = problem(await client.post(MANY, json={"lines": [lines[1]] * 3, "reason": "sale"}), "insufficient-stock")
    assert huge["shortages"] == [exactly | {"requested": 3 * MAX}]
    assert len(tables.ledger) == 1


@pytest.mark.usefixtures("mug")
async def test_the_ledger_is_walked_by_its_links(client: httpx.AsyncClient) -> None:
    """Newest first, every entry once; a cursor serves its own ledger alone."""
    for number in range(5):
        await _adjust(client, number + 1, reference="order 1/ä")
    for url, deltas in (
        (f"{URL}/stock/movements?limit=2", [5, 4, 3, 2, 1, 40]),
        ("/stock/movements?reference=order+1%2F%C3%A4&limit=2", [5, 4, 3, 2, 1]),
    ):
        pages = await walk(client, url)
        assert ([item["delta"] for page in pages for item in page], len(pages)) == (deltas, 3)
    await client.post("/products", json={"id": "cup", "name": "Cup", "price_cents": 1})
    own = (await client.get(f"{URL}/stock/movements?limit=2")).json()["next"]
    other = (await client.get("/stock/movements?reference=order+1%2F%C3%A4&limit=2")).json()["next"]
    for url in (
        f"/products/cup/stock/movements?after={own}",
        f"{URL}/stock/movements?after={other}",
        f"/stock/movements?reference=x&after={other}",
        f"/stock/movements?reference=x&after={own}",
        f"/products?after={own}",
    ):
        assert places(problem(await client.get(url), "invalid-request")) == ["after"]


@pytest.mark.usefixtures("mug")
async def test_a_deleted_products_ledger_stays(client: httpx.AsyncClient) -> None:
    """It is readable; an id that never was has none."""
    await client.delete(URL)
    ledger = (await client.get(f"{URL}/stock/movements")).json()["items"]
    assert [(m["version"], m["delta"], m["reason"]) for m in ledger] == [(2, -40, "deletion"), (1, 40, "opening")]
    assert problem(await client.get("/products/none/stock/movements"), "product-not-found")["missing"] == ["none"]
    assert (await client.get("/stock/movements?reference=none")).json() == {"items": [], "next": None}

"""What is wrong in a body or in a query: every fault is named, and nothing reaches the service."""

import httpx
import pytest

from tests.api.conftest import Service
from tests.api.problem import places, problem, send

CREATE, PATCH = ("POST", "/products"), ("PATCH", "/products/mug-blue")
COUNT = ("PUT", "/products/mug-blue/stock")
BATCH, ADJUST = ("POST", "/products/batch"), ("POST", "/stock/adjustments")
LIST, LEDGER = "/products?", "/stock/movements?"


@pytest.mark.parametrize(
    ("operation", "body", "pointers"),
    [
        (CREATE, [], ["#"]),
        (CREATE, None, ["#"]),
        (CREATE, {}, ["#/name", "#/price_cents"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "a/b~c d": 1, "version": 1}, ["#/a~1b~0c%20d", "#/version"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "\ud800": 1}, ["#"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "id": ""}, ["#/id"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "id": None}, ["#/id"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "id": ".."}, ["#/id"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "id": "a" * 65}, ["#/id"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "id": "a\n"}, ["#/id"]),
        (CREATE, {"name": "", "price_cents": 1}, ["#/name"]),
        (CREATE, {"name": " \u2003", "price_cents": 1}, ["#/name"]),
        (CREATE, {"name": "a\x00", "price_cents": 1}, ["#/name"]),
        (CREATE, {"name": "a\ud800", "price_cents": 1}, ["#/name"]),
        (CREATE, {"name": "a" * 201, "price_cents": 1}, ["#/name"]),
        (CREATE, {"name": 7, "price_cents": "1"}, ["#/name", "#/price_cents"]),
        (CREATE, {"name": "Mug", "price_cents": 3.0}, ["#/price_cents"]),
        (CREATE, {"name": "Mug", "price_cents": True}, ["#/price_cents"]),
        (CREATE, {"name": "Mug", "price_cents": None}, ["#/price_cents"]),
        (CREATE, {"name": "Mug", "price_cents": -1, "stock": 2**53}, ["#/price_cents", "#/stock"]),
        (CREATE, {"name": "Mug", "price_cents": 1, "stock": None, "reorder_point": [1]}, ["#/stock", "#/reorder_point"]),
        (CREATE, b'{"name": "Mug", "price_cents": ' + b"9" * 5_000 + b"}", ["#/price_cents"]),
        (CREATE, b'{"name": "Mug", "price_cents": -' + b"9" * 5_000 + b"}", ["#/price_cents"]),
        (CREATE, b'{"name": "Mug", "price_cents": 1e999}', ["#/price_cents"]),
        (CREATE, b'{"name": "Mug", "price_cents": 1e2}', ["#/price_cents"]),
        (CREATE, {"name": "Mug", "price_cents": 1} | {f"f{i}": 1 for i in range(100)}, ["#"]),
        (CREATE, {"name": "Mug", "price_cents": 1} | {f"f{i}": 1 for i in range(60)}, [f"#/f{i}" for i in range(50)]),
        (PATCH, {"name": None}, ["#/name"]),
        (PATCH, {"price_cents": None}, ["#/price_cents"]),
        (PATCH, {"stock": 1}, ["#/stock"]),
        (PATCH, {"id": "mug-blue", "version": 1}, ["#/id", "#/version"]),
        (PATCH, [], ["#"]),
        (PATCH, None, ["#"]),
        (PATCH, "name", ["#"]),
        (COUNT, {"stock": 1, "reference": ""}, ["#/reference"]),
        (COUNT, {"stock": 1, "reference": "x" * 201}, ["#/reference"]),
        (COUNT, {"stock": 1, "reference": "a\x00b"}, ["#/reference"]),
        (COUNT, {"stock": 1, "reference": "line\nbreak"}, ["#/reference"]),
        (COUNT, {"stock": 1, "reference": "\ud800"}, ["#/reference"]),
        (COUNT, {"stock": 1, "reference": 7}, ["#/reference"]),
        (BATCH, [], ["#"]),
        (BATCH, {}, ["#/items"]),
        (BATCH, {"items": []}, ["#/items"]),
        (BATCH, {"items": {}}, ["#/items"]),
        (BATCH, {"items": None}, ["#/items"]),
        (BATCH, {"items": [{}] * 1_001}, ["#/items"]),
        (BATCH, {"items": [{}], "dry_run": True}, ["#/dry_run"]),
        (ADJUST, {"lines": [], "reason": "sale"}, ["#/lines"]),
        (ADJUST, {"lines": {}, "reason": "sale"}, ["#/lines"]),
        (ADJUST, {"lines": None, "reason": "sale"}, ["#/lines"]),
        (ADJUST, {"lines": [1], "reason": "sale"}, ["#/lines/0"]),
        (ADJUST, {"lines": [None], "reason": "sale"}, ["#/lines/0"]),
        (ADJUST, {"lines": [{}], "reason": "sale"}, ["#/lines/0/product_id", "#/lines/0/delta"]),
        (ADJUST, {"lines": [{"product_id": "..", "delta": 1}], "reason": "sale"}, ["#/lines/0/product_id"]),
        (ADJUST, {"lines": [{"product_id": "a", "delta": 1, "reason": "sale"}], "reason": "sale"}, ["#/lines/0/reason"]),
    ],
)  # fmt: skip
async def test_a_fault_in_a_field_is_named_by_its_pointer(
    client: httpx.AsyncClient, service: Service, operation: tuple[str, str], body: object, pointers: list[str]
) -> None:
    """All faults at once, each by a JSON pointer that is the client's, not ours; integers are strict."""
    answer = await send(client, *operation, body)
    assert places(problem(answer, "invalid-request")) == pointers
    assert "AdjustmentLine" not in answer.text
    assert service.transactions.requests == []


@pytest.mark.parametrize(
    ("url", "query", "parameters"),
    [
        (LIST, "limit=0", ["limit"]),
        (LIST, "limit=251", ["limit"]),
        (LIST, "limit=-1", ["limit"]),
        (LIST, "limit=+5", ["limit"]),
        (LIST, "limit=5.0", ["limit"]),
        (LIST, "limit=", ["limit"]),
        (LIST, "limit=%D9%A3", ["limit"]),
        (LIST, "limit=1&limit=1", ["limit"]),
        (LIST, "q=a&q=b", ["q"]),
        (LIST, "after=x&after=x&limit=7", ["after", "after"]),
        (LIST, "q=", ["q"]),
        (LIST, "q=%00", ["q"]),
        (LIST, "q=" + "a" * 201, ["q"]),
        (LIST, "after=", ["after"]),
        (LIST, "after=!", ["after"]),
        (LIST, "after=WzEsIiIsImEiLCIiXQ%3D%3D", ["after"]),
        (LIST, "after=bm9wZQ", ["after"]),
        (LIST, "below_reorder_point=", ["below_reorder_point"]),
        (LIST, "below_reorder_point=1", ["below_reorder_point"]),
        (LIST, "below_reorder_point=true&below_reorder_point=true", ["below_reorder_point"]),
        (LIST, "id=a&below_reorder_point=true", ["below_reorder_point"]),
        (LIST, "uncovered=1", ["uncovered"]),
        (LIST, "uncovered=true&below_reorder_point=true", ["uncovered"]),
        (LIST, "ids=a", ["ids"]),
        (LIST, "ID=a", ["ID"]),
        (LIST, "=", [""]),
        (LIST, "id=a&limit=1", ["limit"]),
        (LIST, "id=a&q=x&after=y", ["after", "q"]),
        (LIST, "id=a&x=1", ["x", "x"]),
        (LIST, "id=", ["id"]),
        (LIST, "id=a&id=%20&id=..", ["id", "id"]),
        (LIST, "&".join(["id=a"] * 251), ["id"]),
        (LEDGER, "", ["reference"]),
        (LEDGER, "reference=", ["reference"]),
        (LEDGER, "reference=%00", ["reference"]),
        (LEDGER, "reference=" + "x" * 201, ["reference"]),
        (LEDGER, "reference=a&reference=b", ["reference"]),
        (LEDGER, "reference=a&limit=0", ["limit"]),
        (LEDGER, "reference=a&limit=251&after=x", ["limit", "after"]),
        (LEDGER, "reference=a&q=b", ["q"]),
        (LEDGER, "reference=a&after=WzQsImEiLCJhIix0cnVlLDAsIjIwMjYtMDEtMzFUMDk6MDU6MDAuMDAwMDAwWiJd", ["after"]),
        (LEDGER, "reference=a&after=WzQsImEiLCJhIiwxLC0xLCIyMDI2LTAxLTMxVDA5OjA1OjAwLjAwMDAwMFoiXQ", ["after"]),
        (LEDGER, "reference=a&after=WzQsImEiLCJhIiwxLDAsInllc3RlcmRheSJd", ["after"]),
    ],
)
async def test_a_query_that_is_not_understood_is_refused(
    client: httpx.AsyncClient, url: str, query: str, parameters: list[str]
) -> None:
    """Unknown, repeated, mixed and illegal parameters are named, and cursors that were made up never reach the database."""
    assert places(problem(await client.get(url + query), "invalid-request")) == parameters

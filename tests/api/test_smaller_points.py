"""Requests that a client means differently from how they could be taken: each is refused with its reason, or taken as meant."""

from unicodedata import normalize

import httpx
import pytest

from tests.api.problem import places, problem, send

MUG = {"name": "Mug", "price_cents": 1}


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("DELETE", "/products/mug-blue", None),
        ("PUT", "/products/mug-blue", MUG),
        ("PATCH", "/products/mug-blue", {"price_cents": 2}),
        ("PUT", "/products/mug-blue/stock", {"stock": 2}),
        ("POST", "/products/mug-blue/stock/adjustments", {"delta": 1, "reason": "receipt"}),
        ("POST", "/stock/adjustments", {"lines": [{"product_id": "mug-blue", "delta": 1}], "reason": "receipt"}),
        ("POST", "/products", MUG),
        ("POST", "/products/batch", {"items": [{"id": "mug-blue", **MUG}]}),
    ],
)
@pytest.mark.usefixtures("mug")
async def test_writes_take_no_query(client: httpx.AsyncClient, method: str, url: str, body: object) -> None:
    """A parameter on a write is named, and nothing is changed: ``dry_run`` must not delete."""
    answer = await send(client, method, f"{url}?dry_run=true&x=", body if body is not None else b"")
    assert places(problem(answer, "invalid-request")) == ["dry_run", "x"]
    assert (await client.get("/products/mug-blue")).json()["version"] == 1


async def test_byte_order_mark_is_named(client: httpx.AsyncClient) -> None:
    """The first three bytes are what is wrong, not the first column."""
    answer = await send(client, "POST", "/products", b"\xef\xbb\xbf{}")
    assert "byte order mark" in str(problem(answer, "malformed-json")["detail"])


@pytest.mark.parametrize("second", ["application/json", "text/plain"])
async def test_two_content_types_are_none(client: httpx.AsyncClient, second: str) -> None:
    """Which of two counts would depend on the reader."""
    headers = [("Content-Type", "application/json"), ("Content-Type", second)]
    answer = await client.post("/products", content=b"{}", headers=headers)
    problem(answer, "unsupported-media-type")


@pytest.mark.parametrize("name", ["\u200b", "\u2060\u200d", "\u00ad", "\ufeff ", "\u3164", "\u2800\u2800", "\ufe0f", "\u202e"])
async def test_name_that_shows_nothing_is_blank(client: httpx.AsyncClient, name: str) -> None:
    """Characters without a shape make no name; beside others they are left alone."""
    refused = await send(client, "POST", "/products", {"name": name, "price_cents": 1})
    assert "must not be blank" in str(problem(refused, "invalid-request")["errors"])
    taken = await send(client, "POST", "/products", {"name": f"Mug{name}", "price_cents": 1})
    assert taken.json()["name"] == normalize("NFC", f"Mug{name}")


@pytest.mark.parametrize("name", ["Caf\u00e9", "\u00c5ngstr\u00f6m", "\u1ec7", "\ud55c"])
async def test_both_spellings_of_a_name_are_one(client: httpx.AsyncClient, name: str) -> None:
    """A name sent in NFD is stored in NFC, and found by a prefix in either."""
    created = await send(client, "POST", "/products", {"name": normalize("NFD", name), "price_cents": 1})
    assert created.json()["name"] == name
    for spelling in ("NFC", "NFD"):
        found = await client.get("/products", params={"q": normalize(spelling, name)})
        assert [item["name"] for item in found.json()["items"]] == [name]

"""Idempotency-Key over HTTP: which keys there are, what makes the same request, and what is told again."""

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import Request

from app.api.admission import ANYBODY
from app.api.request_state import CALLER, REQUEST_ID
from app.api.responses import render_product
from app.api.writing import IncomingWrite
from app.products.commands import Effect, Upsert
from app.products.idempotency import Answer
from app.products.product import ALWAYS, Draft
from tests.api.conftest import Service
from tests.api.problem import problem, send
from tests.fakes.products import MemoryProducts

URL = "/products/mug-blue"
Mug = dict[str, Any]
WHOLE = {"name": "Mug", "price_cents": 5}
LINES = {"lines": [{"product_id": "mug-blue", "delta": -1}], "reason": "sale"}
WRITES = [
    ("POST", "/products", WHOLE),
    ("POST", "/products", WHOLE | {"id": "cup"}),
    ("POST", "/products/batch", {"items": [WHOLE, WHOLE | {"id": "cup"}, {"id": "cup"}]}),
    ("POST", "/products/batch", {"items": [{"id": "cup"}, {}]}),
    ("PUT", "/products/cup", WHOLE),
    ("PUT", URL, WHOLE),
    ("PATCH", URL, {"price_cents": 7}),
    ("PATCH", URL, {}),
    ("PUT", f"{URL}/stock", {"stock": 1}),
    ("POST", f"{URL}/stock/adjustments", {"delta": -1, "reason": "sale"}),
    ("POST", "/stock/adjustments", LINES),
    ("DELETE", URL, None),
]
REFUSED = [
    ("POST", "/products", WHOLE | {"id": "mug-blue"}, {}, "already-exists"),
    ("PATCH", "/products/none", {}, {}, "product-not-found"),
    ("DELETE", URL, None, {"If-Match": '"9"'}, "precondition-failed"),
    ("POST", f"{URL}/stock/adjustments", {"delta": -41, "reason": "sale"}, {}, "insufficient-stock"),
    ("POST", f"{URL}/stock/adjustments", {"delta": 2**53 - 1, "reason": "sale"}, {}, "stock-limit"),
]


async def _send(
    client: httpx.AsyncClient, method: str, url: str, body: object, key: str = "k", **headers: str
) -> httpx.Response:
    sent = {"Idempotency-Key": key} | headers
    return await client.request(method, url, headers=sent) if body is None else await send(client, method, url, body, sent)


def _told(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """All of an answer but what belongs to its own exchange."""
    own = {"x-request-id", "idempotent-replayed"}
    return answer.status_code, answer.content, {name: value for name, value in answer.headers.items() if name not in own}


@pytest.mark.parametrize(("method", "url", "body"), WRITES)
@pytest.mark.usefixtures("mug")
async def test_every_write_is_done_once_and_told_again(
    client: httpx.AsyncClient, tables: MemoryProducts, method: str, url: str, body: object
) -> None:
    """Same status, bytes, tag and place; marked as replayed; nothing is done, whatever the state has become."""
    first = await _send(client, method, url, body)
    assert first.is_success
    assert "Idempotent-Replayed" not in first.headers
    await client.put(f"{URL}/stock", json={"stock": 77})
    rows, ledger = dict(tables.rows), list(tables.ledger)
    again = await _send(client, method, url, body)
    assert _told(again) == _told(first)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (tables.rows, tables.ledger) == (rows, ledger)


@pytest.mark.parametrize(("method", "url", "body", "headers", "slug"), REFUSED)
@pytest.mark.usefixtures("mug")
async def test_a_refusal_that_depends_on_the_product_is_told_again(  # noqa: PLR0917 - a row of the table
    client: httpx.AsyncClient, method: str, url: str, body: object, headers: dict[str, str], slug: str
) -> None:
    """404, 409 and 412 are answers: the retry is refused as the first was, also when it would succeed by now."""
    first = await _send(client, method, url, body, **headers)
    document = problem(first, slug)
    await client.delete(URL)
    await client.put("/products/none", json=WHOLE)
    again = await _send(client, method, url, body, **headers)
    assert problem(again, slug) == document
    assert _told(again) == _told(first)
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.usefixtures("mug")
async def test_what_a_client_can_correct_is_not_kept(client: httpx.AsyncClient) -> None:
    """After 400, 413, 415, 422 and 428 the corrected request is done under the same key."""
    problem(await _send(client, "PUT", URL, WHOLE | {"stock": 1}), "precondition-required")
    problem(await _send(client, "PUT", URL, b"{"), "malformed-json")
    problem(await _send(client, "PUT", URL, {}), "invalid-request")
    problem(await _send(client, "PUT", URL, b" " * 9_000), "body-too-large")
    answer = await _send(client, "PUT", URL, WHOLE | {"stock": 1}, **{"If-Match": '"1"'})
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (200, False)


@pytest.mark.parametrize(
    ("method", "url", "body", "headers"),
    [
        ("PUT", URL, b'{"name": "Mug", "price_cents": 5 }', {}),
        ("PUT", "/products/mug-blu%65", WHOLE, {}),
        ("PUT", URL, WHOLE, {"If-Match": '"1"'}),
        ("PUT", URL, WHOLE, {"If-None-Match": "*"}),
        ("PATCH", URL, WHOLE, {}),
        ("POST", "/products", WHOLE, {}),
    ],
)
@pytest.mark.usefixtures("mug")
async def test_another_request_under_a_used_key_is_refused(
    client: httpx.AsyncClient, method: str, url: str, body: object, headers: dict[str, str]
) -> None:
    """Method, path, query, preconditions and the body's bytes make a request."""
    assert (await _send(client, "PUT", URL, WHOLE)).status_code == 200
    problem(await _send(client, method, url, body, **headers), "idempotency-key-reused")
    assert (await _send(client, "PUT", URL, WHOLE)).headers["Idempotent-Replayed"] == "true"


@pytest.mark.usefixtures("mug")
async def test_parts_of_a_request_cannot_run_into_each_other(client: httpx.AsyncClient) -> None:
    """What moves from one precondition to the other is another request, although their bytes together are the same."""
    await _send(client, "PUT", URL, WHOLE, **{"If-Match": "*"})
    problem(await _send(client, "PUT", URL, WHOLE, **{"If-None-Match": "*"}), "idempotency-key-reused")


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("k", "k"),
        ('"k"', "k"),
        ('  "k"\t', "k"),
        ('"a b"', "a b"),
        ("a b", "a b"),
        (r'"a\"b\\c"', 'a"b\\c'),
        (r'a"b\c', 'a"b\\c'),
        ("a,b", "a,b"),
        ("~!", "~!"),
        ("k" * 255, "k" * 255),
        ('"' + "k" * 255 + '"', "k" * 255),
        ('"' + r"\"" * 255 + '"', '"' * 255),
    ],
)
async def test_a_key_is_the_same_bare_and_quoted(
    client: httpx.AsyncClient, tables: MemoryProducts, written: str, key: str
) -> None:
    """Quotes and escapes belong to the header, not to the key."""
    assert (await _send(client, "PUT", URL, WHOLE, written)).status_code == 201
    assert list(tables.answers) == [("", key)]


@pytest.mark.parametrize(
    "written",
    ["", '""', '"', '"k', '"k"x', '"k";a=1', '"a", "b"', r'"a\b"', r'"a\"', "k" * 256, '"' + "k" * 256 + '"', "\u00e9", "a\tb"],
)
@pytest.mark.parametrize(("method", "url", "body"), WRITES[-4:])
async def test_a_key_that_is_none_is_refused(  # noqa: PLR0917 - a row of the table
    client: httpx.AsyncClient, service: Service, method: str, url: str, body: object, written: str
) -> None:
    """400: empty, too long, not ASCII, not printable, or quotes that do not fit."""
    headers = [(b"Idempotency-Key", written.encode()), (b"Content-Type", b"application/json")]
    request = client.build_request(method, url, json=body, headers=headers)
    problem(await client.send(request), "invalid-header")
    assert service.transactions.requests == []


async def test_a_repeated_key_is_refused(client: httpx.AsyncClient) -> None:
    """Nobody knows which of them was meant, equal or not."""
    headers = [("Idempotency-Key", "k"), ("Idempotency-Key", "k"), ("Content-Type", "application/json")]
    problem(await client.request("PUT", URL, headers=headers, content=b'{"name":"a","price_cents":1}'), "invalid-header")


async def test_the_ledger_is_told_which_request_asked(client: httpx.AsyncClient, service: Service) -> None:
    """The id of the answer's X-Request-Id, with and without a key."""
    answers = [await client.put(URL, json=WHOLE), await _send(client, "PUT", URL, WHOLE)]
    origins = [request.origin for request in service.transactions.requests]
    assert [origin.request_id for origin in origins] == [answer.headers["X-Request-Id"] for answer in answers]
    assert [origin.idempotency_key and origin.idempotency_key.key for origin in origins] == [None, "k"]


@pytest.mark.parametrize("key", ["k", None])
async def test_an_answer_is_rendered_once(service: Service, key: str | None) -> None:
    """With a key within the transaction that stores it, and what is stored is told; a replay renders nothing."""
    scope = {
        "type": "http",
        "app": service.app,
        "path": "/products",
        "state": {REQUEST_ID: "r", CALLER: ANYBODY},
        "method": "POST",
        "headers": [],
    }
    request = Request(scope | {"raw_path": b"/products", "query_string": b""})
    rendered: list[Answer] = []

    def render(effects: Sequence[Effect]) -> Answer:
        rendered.append(render_product(effects))
        return rendered[-1]

    incoming = IncomingWrite(request, service.app.state.larder, b"", None, ALWAYS, key)
    first = await incoming.answer(Upsert([Draft("a", "Mug", 1)]), render)
    assert ([answer.body for answer in rendered], len(service.tables.answers)) == ([first.body], 1 if key else 0)
    again = await incoming.answer(Upsert([Draft("a", "Cup", 2)]), render)
    assert (again.headers.get("Idempotent-Replayed"), len(rendered)) == (("true", 1) if key else (None, 2))
    assert (again.body == first.body) == (key is not None)

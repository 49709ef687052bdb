"""The decisions that docs/HTTP.md tells, each tried: a sentence that is not so any more is found."""

from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.api.problem import places

_PAGE = (Path(__file__).parents[2] / "docs" / "HTTP.md").read_text(encoding="utf-8")
_JSON = "application/json"


class Said(NamedTuple):
    """A sentence of the page, a request, and what it leads to by this sentence."""

    sentence: str
    method: str
    url: str
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    place: str = ""
    """The pointer or parameter of the first error."""


_MUG = "/products/mug-blue"
SAID = [
    Said('An illegal id in the path is 422 with `"parameter": "prod', "GET", "/products/a%20b", 422, place="product_id"),
    Said('`%2F` is 422 with `"parameter": "path"`', "GET", "/products/mug%2Fblue", 422, place="path"),
    Said('`%2F` is 422 with `"parameter": "path"`', "PUT", "/products/a%2fb/stock", 422, b'{"stock": 1}', place="path"),
    Said("A path with a trailing slash or in another case is 404", "GET", f"{_MUG}/", 404),
    Said("A path with a trailing slash or in another case is 404", "GET", "/Products/mug-blue", 404),
    Said("A path with a trailing slash or in another case is 404", "POST", "/products/", 404, b"{}"),
    Said("A write has no query: `?dry_run=true` is 422", "DELETE", f"{_MUG}?dry_run=true", 422, place="dry_run"),
    Said("an unknown parameter, or a repeated one other than `id` is 422", "GET", "/products?colour=red", 422, place="colour"),
    Said("or a repeated one other than `id` is 422", "GET", "/products?limit=1&limit=2", 422, place="limit"),
    Said("`id` with other parameters, an unknown", "GET", "/products?id=mug-blue&q=b", 422, place="q"),
    Said("`reference` is required: there is no list of all movements", "GET", "/stock/movements", 422, place="reference"),
    Said("Movements of an id that never existed are 404", "GET", "/products/none/stock/movements", 404),
    Said("those of an unknown reference are an empty list", "GET", "/stock/movements?reference=none", 200),
    Said("A member named twice is 400", "PUT", _MUG, 400, b'{"name": "a", "name": "b", "price_cents": 1}'),
    Said('`3.0`, `1e2` and `"3"` are not integers: 422', "PUT", f"{_MUG}/stock", 422, b'{"stock": 3.0}', place="#/stock"),
    Said('`3.0`, `1e2` and `"3"` are not integers: 422', "PUT", f"{_MUG}/stock", 422, b'{"stock": 1e2}', place="#/stock"),
    Said('`3.0`, `1e2` and `"3"` are not integers: 422', "PUT", f"{_MUG}/stock", 422, b'{"stock": "3"}', place="#/stock"),
    Said("that begins with a byte order mark, is 400", "PUT", f"{_MUG}/stock", 400, b'\xef\xbb\xbf{"stock": 3}'),
    Said("An empty one is 422, because no query could find it", "PUT", f"{_MUG}/stock", 422, b'{"stock": 3, "reference": ""}'),
    Said("An empty `If-Match` is 400", "PUT", f"{_MUG}/stock", 400, b'{"stock": 3}', (("If-Match", ""),)),
    Said("`If-None-Match` with tags on a write is 400", "PUT", _MUG, 400, b"{}", (("If-None-Match", '"1"'),)),
    Said("`If-Match` on GET is evaluated (RFC 9110, 13.2.2)", "GET", _MUG, 412, headers=(("If-Match", '"9"'),)),
    Said("a missing product stays 404", "GET", "/products/none", 404, headers=(("If-Match", '"9"'),)),
    Said("`If-Modified-Since` and `If-Unmodified-Since` are ignored", "GET", _MUG, 200,
         headers=(("If-Modified-Since", "Sat, 29 Oct 2050 19:43:31 GMT"),
                  ("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT"))),
    Said("Larder ignores the body of a DELETE", "DELETE", _MUG, 204, b"{"),
    Said("`DELETE /cache/products/{id}` ignores an `Idempotency-Key`", "DELETE", f"/cache{_MUG}", 204,
         headers=(("Idempotency-Key", ""),)),
]  # fmt: skip


@pytest.mark.parametrize("said", SAID, ids=lambda said: f"{said.method} {said.url} {said.body!r}")
@pytest.mark.usefixtures("mug")
async def test_what_the_page_says_is_so(client: httpx.AsyncClient, said: Said) -> None:
    """The sentence is on the page, and the service does it."""
    assert said.sentence in _PAGE
    declared = {"Content-Type": _JSON} if said.body else {}
    answer = await client.request(said.method, said.url, content=said.body, headers=[*declared.items(), *said.headers])
    assert answer.status_code == said.status, answer.text
    if said.place:
        assert places(answer.json())[0] == said.place

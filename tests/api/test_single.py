"""One product over HTTP: read, replace, patch, delete, count."""

from typing import Any

import httpx
import pytest

from app.cache.ports import Absent
from app.cache.write_through import Read, Status
from tests.api.conftest import Front
from tests.api.problem import places, problem
from tests.fakes.products import EPOCH

URL = "/products/mug-blue"
Mug = dict[str, Any]


def _as(status: Status, detail: str = "") -> Read:
    return Read(Absent("", EPOCH, 0), status, detail)


async def test_a_product_is_answered_with_the_bytes_of_its_payload(client: httpx.AsyncClient, mug: Mug) -> None:
    """Fields in the contract's order, compact UTF-8, six digits of fraction, tag and freshness beside it."""
    answer = await client.get(URL)
    assert answer.content == (
        b'{"id":"mug-blue","name":"Blue mug","price_cents":1299,"stock":40,"reorder_point":10,"version":1,'
        b'"created_at":"2026-01-31T09:05:00.000001Z","updated_at":"2026-01-31T09:05:00.000001Z",'
        b'"reserved":0,"available":40}'
    )
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Content-Type"] == "application/json"
    assert mug == answer.json()


@pytest.mark.usefixtures("mug")
async def test_head_gives_the_headers_of_get_and_no_body(client: httpx.AsyncClient) -> None:
    """HEAD differs from GET by its body alone, for an absent product too."""
    for url in (URL, "/products/none"):
        await client.get(url)
        get, head = await client.get(url), await client.head(url)
        assert (head.status_code, head.content) == (get.status_code, b"")
        headers = [{k: v for k, v in answer.headers.items() if k != "x-request-id"} for answer in (get, head)]
        assert headers[0] == headers[1]


@pytest.mark.parametrize(
    ("read", "header"),
    [
        (_as(Status.HIT), "larder; hit"),
        (_as(Status.MISS), "larder; fwd=miss"),
        (_as(Status.STORED), "larder; fwd=miss; stored"),
        (_as(Status.BYPASS, "redis-unavailable"), "larder; fwd=bypass; detail=redis-unavailable"),
        (_as(Status.BYPASS), "larder; fwd=bypass"),
        (_as(Status.REFRESHED), "larder; fwd=request"),
        (_as(Status.REFRESHED_STORED), "larder; fwd=request; stored"),
        (_as(Status.UNVERIFIED, "unverified"), "larder; hit; detail=unverified"),
    ],
)
@pytest.mark.usefixtures("mug")
async def test_cache_status_says_how_a_read_was_served(
    client: httpx.AsyncClient, front: Front, read: Read, header: str
) -> None:
    """Each way of serving has its own header, on 200, 304 and 404 alike."""
    front.served = {"": read}
    for url, headers in ((URL, {}), (URL, {"If-None-Match": "*"}), ("/products/none", {})):
        assert (await client.get(url, headers=headers)).headers["Cache-Status"] == header


def test_every_status_has_a_header() -> None:
    """No way of serving is left without a word."""
    from app.api.responses import cache_status  # noqa: PLC0415 - concerns this test alone

    assert len({cache_status(_as(status)) for status in Status}) == len(Status)


@pytest.mark.parametrize("tags", ['"1"', 'W/"1"', "*", '"0", "1"', ' ,"0",, W/"1" ,', '"a,b" , "1"'])
@pytest.mark.usefixtures("mug")
async def test_if_none_match_that_names_the_version_gives_304(client: httpx.AsyncClient, tags: str) -> None:
    """The comparison is weak; the 304 carries what a cache needs to go on with its copy."""
    answer = await client.get(URL, headers={"If-None-Match": tags})
    assert (answer.status_code, answer.content) == (304, b"")
    assert (answer.headers["ETag"], answer.headers["Cache-Control"]) == ('"1"', "no-cache")
    assert "Content-Type" not in answer.headers


@pytest.mark.parametrize("tags", ['"2"', 'W/"2"', '"01"', '"1_"', '"W/1"'])
@pytest.mark.usefixtures("mug")
async def test_if_none_match_of_another_version_gives_200(client: httpx.AsyncClient, tags: str) -> None:
    """Tags are opaque: what is not the very tag is another one."""
    assert (await client.get(URL, headers={"If-None-Match": tags})).status_code == 200


@pytest.mark.usefixtures("mug")
async def test_if_match_is_heeded_on_get(client: httpx.AsyncClient) -> None:
    """RFC 9110, 13.2.2: a false If-Match is 412 on a read, too, but an absent product stays 404."""
    assert (await client.get(URL, headers={"If-Match": '"1"'})).status_code == 200
    for tag in ('"2"', 'W/"1"'):
        answer = await client.get(URL, headers={"If-Match": tag})
        assert problem(answer, "precondition-failed")["current_version"] == 1
        assert answer.headers["ETag"] == '"1"'
    assert (await client.get("/products/none", headers={"If-Match": '"1"'})).status_code == 404


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("tags", ["1", '"1', '"1" "2"', '*, "1"', "", " , ", 'w/"1"', 'W/ "1"', '"1"x', '"a b"'])
@pytest.mark.usefixtures("mug")
async def test_a_malformed_precondition_is_refused(client: httpx.AsyncClient, name: str, tags: str) -> None:
    """It could decide about the request, so it is not ignored: 400 on reads and writes."""
    problem(await client.get(URL, headers={name: tags}), "invalid-header")
    problem(await client.delete(URL, headers={name: tags}), "invalid-header")


@pytest.mark.parametrize(
    ("header", "freshness"),
    [
        ("no-cache", (True, 0)),
        ("max-age=0, No-Cache", (True, 0)),
        ('no-cache="x, y"', (True, 0)),
        ("stale-if-error=60", (False, 60)),
        ('stale-if-error="60", x=1', (False, 60)),
        ("stale-if-error=9999999999", (False, 31_536_000)),
        ("stale-if-error=-1", (False, 0)),
        ("stale-if-error", (False, 0)),
        ('x="no-cache"', (False, 0)),
        ('x="a, no-cache"', (False, 0)),
        (",,=;", (False, 0)),
    ],
)
async def test_cache_control_of_a_request_reaches_the_cache(
    client: httpx.AsyncClient, front: Front, header: str, freshness: tuple[bool, int]
) -> None:
    """Directives are read as RFC 9111 has them; unknown and invalid ones ask for nothing."""
    await client.get(URL, headers={"Cache-Control": header})
    await client.get("/products?id=a", headers={"Cache-Control": header})
    assert [(read["refresh"], read["stale_s"]) for read in front.reads] == [freshness, freshness]


async def test_put_creates_then_replaces(client: httpx.AsyncClient) -> None:
    """201 with Location, then 200; both are the product and its tag."""
    body = {"name": "Mug", "price_cents": 1}
    created = await client.put("/products/a:b", json=body)
    assert (created.status_code, created.headers["Location"], created.headers["ETag"]) == (201, "/products/a:b", '"1"')
    replaced = await client.put("/products/a:b", json=body | {"price_cents": 2})
    assert (replaced.status_code, replaced.headers["ETag"]) == (200, '"2"')
    assert "Location" not in replaced.headers
    assert replaced.content == (await client.get("/products/a:b")).content


async def test_a_product_can_be_put_back_as_it_was_read(client: httpx.AsyncClient, mug: Mug) -> None:
    """id, version and timestamps are taken along; with If-Match the stock is, too."""
    answer = await client.put(URL, json=mug | {"name": "Mug"}, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    problem(await client.put(URL, json=mug), "precondition-required")


async def test_an_id_in_the_body_must_be_the_one_in_the_path(client: httpx.AsyncClient, mug: Mug) -> None:
    """A product is never renamed."""
    assert places(problem(await client.put("/products/other", json=mug), "invalid-request")) == ["#/id"]


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("PUT", URL, {"name": "Mug", "price_cents": 1}),
        ("PATCH", URL, {"name": "Mug"}),
        ("PUT", f"{URL}/stock", {"stock": 1}),
        ("POST", f"{URL}/stock/adjustments", {"delta": -1, "reason": "sale"}),
        ("DELETE", URL, None),
    ],
)
@pytest.mark.usefixtures("mug")
async def test_preconditions_guard_every_write(client: httpx.AsyncClient, method: str, url: str, body: object) -> None:
    """Another version, a weak tag and create-only are 412 with the current version, and nothing changes."""
    send = {"json": body} if body else {}
    for headers in (
        {"If-Match": '"7"'},
        {"If-Match": 'W/"1"'},
        {"If-None-Match": "*"},
        {"If-Match": '"1"', "If-None-Match": "*"},
    ):
        answer = await client.request(method, url, headers=headers, **send)  # type: ignore[arg-type]
        assert problem(answer, "precondition-failed")["current_version"] == 1
        assert answer.headers["ETag"] == '"1"'
    problem(await client.request(method, url, headers={"If-None-Match": '"1"'}, **send), "invalid-header")  # type: ignore[arg-type]
    assert (await client.get(URL)).json()["version"] == 1
    answer = await client.request(method, url, headers={"If-Match": '"7", "1"'}, **send)  # type: ignore[arg-type]
    assert answer.is_success


async def test_put_of_an_absent_product_with_if_match_is_412_without_a_version(client: httpx.AsyncClient) -> None:
    """There is no version to name, and no tag."""
    answer = await client.put(URL, json={"name": "Mug", "price_cents": 1}, headers={"If-Match": "*"})
    assert problem(answer, "precondition-failed")["current_version"] is None
    assert "ETag" not in answer.headers


@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json", "Application/JSON; charset=UTF-8"])
async def test_patch_changes_what_it_names(client: httpx.AsyncClient, mug: Mug, media_type: str) -> None:
    """What is left out stays; null sets the reorder point back."""
    answer = await client.patch(URL, content=b'{"price_cents": 5, "reorder_point": null}', headers={"Content-Type": media_type})
    changed = {"price_cents": 5, "reorder_point": 0, "version": 2, "updated_at": answer.json()["updated_at"]}
    assert answer.json() == mug | changed


async def test_a_patch_that_changes_nothing_keeps_the_version(client: httpx.AsyncClient, mug: Mug) -> None:
    """200 with the product as it is."""
    for patch in ({}, {"name": "Blue mug"}):
        answer = await client.patch(URL, json=patch)
        assert (answer.status_code, answer.json(), answer.headers["ETag"]) == (200, mug, '"1"')


@pytest.mark.usefixtures("mug")
async def test_a_count_sets_the_stock_and_raises_the_version(client: httpx.AsyncClient) -> None:
    """A count of the same number is a count all the same, and an entry of the ledger with its reference."""
    for version in (2, 3):
        answer = await client.put(f"{URL}/stock", json={"stock": 50, "reference": "count-7"})
        assert (answer.json()["stock"], answer.json()["version"], answer.headers["ETag"]) == (50, version, f'"{version}"')
    entries = (await client.get("/stock/movements?reference=count-7")).json()["items"]
    assert [(entry["delta"], entry["reason"], entry["stock_after"]) for entry in entries] == [
        (0, "count", 50),
        (10, "count", 50),
    ]
    for reference in (None, "x", "x" * 200, "🍵" * 200):
        assert (await client.put(f"{URL}/stock", json={"stock": 1, "reference": reference})).status_code == 200


@pytest.mark.usefixtures("mug")
async def test_a_deleted_product_is_gone_and_can_come_back(client: httpx.AsyncClient) -> None:
    """204 whatever the stock, then 404 everywhere; the version goes on."""
    answer = await client.delete(URL)
    assert (answer.status_code, answer.content) == (204, b"")
    problem(await client.get(URL), "product-not-found")
    for method, url, body in (("DELETE", URL, None), ("PATCH", URL, {}), ("PUT", f"{URL}/stock", {"stock": 1})):
        answer = await client.request(method, url, json=body, headers={"If-Match": '"1"'})
        assert problem(answer, "product-not-found")["missing"] == ["mug-blue"]
    assert (await client.put(URL, json={"name": "Mug", "price_cents": 1})).json()["version"] == 3


async def test_dropping_an_entry_does_not_touch_the_product(client: httpx.AsyncClient, mug: Mug) -> None:
    """204 with and without an entry; the next read is a miss."""
    for _ in range(2):
        assert (await client.delete(f"/cache{URL}")).status_code == 204
    answer = await client.get(URL)
    assert (answer.json(), answer.headers["Cache-Status"]) == (mug, "larder; fwd=miss; stored")

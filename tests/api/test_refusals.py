"""Every way in which a request is refused before the service is asked, and in which order."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cache import errors as cache
from app.postgres import errors as postgres
from app.products import errors as products
from tests.api.conftest import LIMIT, Front, Service
from tests.api.problem import places, problem, send

MUG = b'{"name": "Mug", "price_cents": 1, "stock": 1}'
TAKE_ALL = b'{"delta": -9007199254740991, "reason": "sale"}'
WRONG = {"If-Match": "1", "Idempotency-Key": '"k'}
ALL_WRONG = WRONG | {"Content-Type": "text/plain", "Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("method", "url", "headers", "body", "slug"),
    [
        ("PUT", "/product/no..", ALL_WRONG, b"x" * (LIMIT + 1), "route-not-found"),
        ("TRACE", "/products/..%20", ALL_WRONG, b"x" * (LIMIT + 1), "method-not-allowed"),
        ("PUT", "/products/%20", ALL_WRONG, b"x" * (LIMIT + 1), "body-too-large"),
        ("PUT", "/products/%20", ALL_WRONG, b"x", "unsupported-media-type"),
        ("PUT", "/products/%20", WRONG, b"x", "malformed-json"),
        ("PUT", "/products/%20", WRONG, b"[]", "invalid-header"),
        ("PUT", "/products/%20", {"Idempotency-Key": '"k'}, b"[]", "invalid-header"),
        ("PUT", "/products/%20", {"Idempotency-Key": "used"}, b"[]", "invalid-request"),
        ("PUT", "/products/a", {"Idempotency-Key": "used"}, b"[]", "invalid-request"),
        ("PATCH", "/products/a", {"Idempotency-Key": "used", "If-Match": '"7"'}, b"{}", "idempotency-key-reused"),
        ("PUT", "/products/mug-blue", {"Idempotency-Key": "used"}, MUG, "idempotency-key-reused"),
        ("POST", "/products/mug-blue/stock/adjustments", {"If-Match": '"7"'}, TAKE_ALL, "precondition-failed"),
        ("POST", "/products/mug-blue/stock/adjustments", {}, TAKE_ALL, "insufficient-stock"),
        ("POST", "/products/a/stock/adjustments", {"If-Match": '"7"'}, TAKE_ALL, "product-not-found"),
        ("POST", "/stock/adjustments", {"If-Match": '"7"'}, b"[]", "invalid-header"),
        ("PATCH", "/products/a", {"If-Match": '"7"'}, b"{}", "product-not-found"),
        ("PUT", "/products/mug-blue", {}, MUG, "precondition-required"),
        ("PUT", "/products/mug-blue", {"If-Match": '"7"'}, MUG, "precondition-failed"),
        ("POST", "/products", {}, MUG[:-1] + b',"id":"mug-blue"}', "already-exists"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("mug")
async def test_of_several_faults_the_first_in_the_contract_is_answered(  # noqa: PLR0917 - a row of the table
    client: httpx.AsyncClient, method: str, url: str, headers: dict[str, str], body: bytes, slug: str
) -> None:
    """The order is the contract's; each request has the fault of its line and later ones."""
    await client.delete("/products/none", headers={"Idempotency-Key": "used"})
    problem(await send(client, method, url, body, headers), slug)
    assert (await client.get("/products/mug-blue")).json()["version"] == 1


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/products", "GET, HEAD, POST"),
        ("DELETE", "/products/batch/", None),
        ("POST", "/products/mug-blue", "DELETE, GET, HEAD, PATCH, PUT"),
        ("OPTIONS", "/products/batch", "DELETE, GET, HEAD, PATCH, POST, PUT"),
        ("GET", "/products/mug-blue/stock", "PUT"),
        ("HEAD", "/products/mug-blue/stock", "PUT"),
        ("GET", "/cache/products/mug-blue", "DELETE"),
        ("POST", "/livez", "GET, HEAD"),
        ("PURGE", "/metrics", "GET, HEAD"),
        ("POST", "/docs/assets/swagger-ui.css", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("POST", "/problems/overloaded", "GET, HEAD"),
        ("GET", "/", None),
        ("GET", "/Products", None),
        ("GET", "/products/", None),
        ("GET", "/docs/assets/none.css", None),
        ("GET", "/problems/none", None),
    ],
)  # fmt: skip
async def test_a_wrong_method_is_told_every_right_one(
    client: httpx.AsyncClient, method: str, path: str, allowed: str | None
) -> None:
    """Allow is the union over the routes of the path; a path without a route is 404 for every method."""
    answer = await client.request(method, path)
    assert answer.headers.get("Allow") == allowed
    if method != "HEAD":
        problem(answer, "method-not-allowed" if allowed else "route-not-found")
    else:
        assert answer.status_code == 405


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_not_read_to_its_end(client: httpx.AsyncClient, announced: bool) -> None:  # noqa: FBT001
    """By Content-Length nothing is read; a chunked one is left at the limit, before any parsing."""
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 100 * LIMIT:
            taken += 512
            yield b"[" * 512

    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(LIMIT + 1)} if announced else {})
    answer = await client.post("/products", content=endless(), headers=headers)
    assert problem(answer, "body-too-large")["limit_bytes"] == LIMIT
    assert taken <= (512 if announced else LIMIT + 512)


async def test_a_body_of_exactly_the_limit_is_read(client: httpx.AsyncClient) -> None:
    """The limit itself is allowed."""
    answer = await send(client, "POST", "/products", MUG + b" " * (LIMIT - len(MUG)))
    assert answer.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/merge-patch+json"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_a_body_that_is_not_declared_as_json_is_refused(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """415, with what would be accepted."""
    answer = await client.post("/products", content=MUG, headers=headers)
    problem(answer, "unsupported-media-type")
    assert (answer.headers["Accept"], answer.headers["Accept-Encoding"]) == ("application/json", "identity")
    patched = await client.patch("/products/a", content=MUG, headers={"Content-Type": "text/plain"})
    problem(patched, "unsupported-media-type")
    assert patched.headers["Accept-Patch"] == "application/merge-patch+json, application/json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"{'name': 1}",
        b'{"name": "a",}',
        b'{"price_cents": NaN}',
        b'{"price_cents": Infinity}',
        b'{"price_cents": -Infinity}',
        b'{"price_cents": 01}',
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "Mug", "price_cents": 1}',
        '{"name": "Mug"}'.encode("utf-16"),
        b'{"name": "a\nb"}',
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "n\\u0061me": "a"}',
        b'{"x": {"y": 1, "y": 1}}',
        b"[" * 4_000,
        b'{"a":' * 800,
        b'{"a":' * 500 + b"1" + b"}" * 500 + b"x",
    ],
)
async def test_a_body_that_is_no_json_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    """400, also where lenient readers see a value: NaN, a member named twice, other encodings, deep nesting."""
    problem(await send(client, "POST", "/products", body), "malformed-json")


@pytest.mark.parametrize("name", ["Mug", "x" * 200, "🍵" * 200, " a ", "\u00e9", "a\u202e"])
async def test_a_legal_name_is_stored_as_sent(client: httpx.AsyncClient, name: str) -> None:
    """Neither trimmed nor normalised; code points are counted, not bytes."""
    answer = await send(client, "POST", "/products", {"name": name, "price_cents": 2**53 - 1})
    assert (answer.status_code, answer.json()["name"], answer.json()["price_cents"]) == (201, name, 2**53 - 1)


@pytest.mark.parametrize(
    "path", ["/products/%20", "/products/..%0A", "/products/" + "a" * 65, "/products/%C3%A4", "/products/a%00"]
)
@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("PUT", ""),
        ("PATCH", ""),
        ("PUT", "/stock"),
        ("POST", "/stock/adjustments"),
        ("GET", "/stock/movements"),
    ],
)
async def test_an_illegal_id_in_the_path_is_422(client: httpx.AsyncClient, path: str, method: str, rest: str) -> None:
    """It is no product that could be missing: the parameter is named."""
    bodies = {"/stock": {"stock": 1}, "/stock/adjustments": {"delta": 1, "reason": "sale"}}
    body = bodies.get(rest, {"name": "Mug", "price_cents": 1})
    answer = await send(client, method, path + rest, {} if method == "PATCH" else body)
    assert places(problem(answer, "invalid-request")) == ["product_id"]
    assert places(problem(await client.delete(f"/cache{path}"), "invalid-request")) == ["product_id"]


@pytest.mark.parametrize("url", ["/products", "/products/batch", "/stock/adjustments"])
@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
async def test_preconditions_on_a_collection_are_refused(client: httpx.AsyncClient, url: str, header: str) -> None:
    """There is no one product that they could be about."""
    problem(await send(client, "POST", url, {}, {header: "*"}), "invalid-header")


def _errors_of(module: object) -> Iterator[type[Exception]]:
    yield from (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Exception))


SERVICE_ERRORS = {
    cache.Overloaded("x"): "overloaded",
    cache.SourceUnavailable("x"): "database-unavailable",
    cache.SourceRefused("x"): "database-unavailable",
    cache.SourceDeposed("x"): "database-unavailable",
    cache.StoreUnavailable("x"): "cache-unavailable",
    cache.NotConnected("x"): "cache-unavailable",
    cache.LeasesInDoubt("x", {}): "cache-unavailable",
    cache.WrongSentinel("its password"): "cache-unavailable",
    cache.NotSettled("x"): "outcome-unknown",
    postgres.DatabaseUnavailable("x"): "database-unavailable",
    postgres.ConnectionLost("x"): "database-unavailable",
    postgres.ConnectionStale("x"): "database-unavailable",
    postgres.DatabaseUnsuitable("x"): "database-unavailable",
    postgres.DatabaseReadOnly("x"): "database-unavailable",
    postgres.DatabaseRefused("x"): "database-unavailable",
    postgres.DatabaseNewer("x"): "database-unavailable",
    postgres.DatabaseOverloaded("x"): "overloaded",
    postgres.TransactionConflict("x"): "overloaded",
    postgres.LockTimeout("x"): "overloaded",
    postgres.CommitUnknown("x"): "outcome-unknown",
    postgres.DatabaseFailed("x"): "internal-error",
    postgres.DataRefused("x"): "internal-error",
    products.ProductsMissing(["a"]): "product-not-found",
    products.AlreadyExists("a", 1): "already-exists",
    products.PreconditionRequired("x"): "precondition-required",
    products.PreconditionFailed("a", 1): "precondition-failed",
    products.InsufficientStock([products.Shortage("a", 1, 2, 3, 4, 3)]): "insufficient-stock",
    products.StockLimit(["a"]): "stock-limit",
    products.ProductReserved("a", 4, 3, 2): "product-reserved",
    products.NotEnabled("x"): "not-enabled",
    products.ReservationMissing("r"): "reservation-not-found",
    products.ReservationChanged("r", 2): "precondition-failed",
    products.ReservationExpired("r", datetime(2026, 1, 31, tzinfo=UTC), 2): "reservation-expired",
    products.ReservationClosed("r", "committed", 2): "reservation-closed",
    products.NotHeld("r", [products.Excess(0, 1, 2)]): "not-held",
    products.LifeTooLong("x"): "invalid-request",
    products.TooManyEnded("x"): "overloaded",
    products.NotHere(7, "0-3"): "not-here",
    products.BucketMoving(7): "bucket-moving",
    products.SeveralPairs(["a"], ["b"]): "several-pairs",
    products.KeyReused("x"): "idempotency-key-reused",
    products.RequestInProgress("x"): "request-in-progress",
    products.OutcomeUnknown("x"): "outcome-unknown",
    RuntimeError("SELECT secret FROM postgresql://user:password@host"): "internal-error",
}
BASES = {cache.CacheError, postgres.DatabaseError, products.Refused, products.UnitsNeeded}
INTERNAL = {cache.InvalidKey, cache.NeedsOwnCycle}
"""Errors that reach no client: ids are checked before the cache is asked, and audits answer nobody."""


@pytest.mark.parametrize(("error", "slug"), SERVICE_ERRORS.items(), ids=lambda value: type(value).__name__)
async def test_every_error_of_the_service_has_its_answer(
    client: httpx.AsyncClient, front: Front, error: Exception, slug: str
) -> None:
    """One table decides, and what is inside of an error stays inside."""
    front.fault = error
    for answer in (
        await client.get("/products/a"),
        await client.get("/products?limit=1"),
        await send(client, "PUT", "/products/a", {"name": "Mug", "price_cents": 1}),
        await client.delete("/cache/products/a"),
    ):
        problem(answer, slug)
        assert "password" not in answer.text
        assert "Traceback" not in answer.text


def test_no_error_class_is_forgotten() -> None:
    """Whoever adds an error decides here what it is to a client."""
    known = {type(error) for error in SERVICE_ERRORS} | BASES | INTERNAL
    assert [error for module in (cache, postgres, products) for error in _errors_of(module) if error not in known] == []


async def test_a_fault_is_logged_with_the_id_of_its_answer(
    service: Service, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has the answer can be told what happened."""
    service.products.fault = RuntimeError("the inside")
    answer = await client.get("/products/a")
    [record] = [record for record in caplog.records if record.name == "larder.http"]
    assert answer.headers["X-Request-Id"] in record.getMessage()
    assert record.exc_info is not None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["POST", "PUT", "PATCH"]),
    path=st.sampled_from(
        [
            "/products",
            "/products/batch",
            "/products/a",
            "/products/a/stock",
            "/products/a/stock/adjustments",
            "/stock/adjustments",
        ]
    ),
    body=st.binary(max_size=60)
    | st.text(alphabet='{}[]":,0189eE.-+\\u tfnN\n', max_size=60).map(str.encode)
    | st.sampled_from([b'{"items": [{}, 1, null, "x", {"id": {}, "name": [], "price_cents": {}}]}', b'{"items": {}}']),
    header=st.text(alphabet='*W/"a1, \t', max_size=20),
    key=st.text(alphabet='"\\a1, ;\t', max_size=20),
)
async def test_no_request_is_answered_with_a_fault_of_ours(  # noqa: PLR0917 - the parts of a request
    client: httpx.AsyncClient, method: str, path: str, body: bytes, header: str, key: str
) -> None:
    """Whatever the bytes, the answer is a foreseen one."""
    answer = await send(client, method, path, body, {"If-Match": header, "Idempotency-Key": key})
    assert answer.status_code < 500

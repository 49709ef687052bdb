"""A bit of everything that clients do, right and wrong, each kind as often as its weight says."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from benchmarks.steady.testbed import product_id
from tests.harness.client import Endpoint, NoAnswerError

UNKNOWN = 100_000
"""Ids that no product has."""
SHORT_LIVED = 500
"""Products that are deleted and created again, beyond the catalogue."""
REUSED_KEYS = 0.1
"""The share of adjustments that retry an earlier one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and the statuses that are right for it."""

    method: str
    path: str
    right: frozenset[int]
    body: bytes = b""
    headers: str = ""


class MixedLoad:
    """Sends random requests over the catalogue of ``products`` products. ``answers`` counts the answers by kind and status."""

    def __init__(self, endpoint: Endpoint, products: int, chance: Random) -> None:
        self._endpoint = endpoint
        self._products = products
        self._chance = chance
        self._serial = 0
        self._adjusted: list[Request] = []
        self.answers: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        kinds: dict[Callable[[], Request], int] = {
            self.read: 45,
            self.read_hot: 12,
            self.read_unknown: 5,
            self.read_unchanged: 5,
            self.read_fresh: 1,
            self.read_many: 2,
            self.read_list: 2,
            self.read_ledger: 2,
            self.count: 8,
            self.adjust: 7,
            self.adjust_several: 2,
            self.change_outdated: 2,
            self.replace: 2,
            self.delete: 2,
            self.send_nonsense: 2,
            self.ask_nonsense: 1,
        }
        self._kinds = list(kinds)
        self._weights = list(accumulate(kinds.values()))

    async def __call__(self, _: float) -> None:
        """Send a random request. A request without an answer counts as wrong."""
        kind, request = self.next_request()
        try:
            answer = await self._endpoint.request(request.method, request.path, headers=request.headers, body=request.body)
        except NoAnswerError as error:
            self.wrong.append(f"{request.method} {request.path}: {error}")
            return
        self.answers[kind, answer.status] += 1
        if answer.status not in request.right:
            self.wrong.append(f"{request.method} {request.path}: {answer.status} {answer.body[:200]!r}")

    def next_request(self) -> tuple[str, Request]:
        """Return the kind and the request that come next."""
        [kind] = self._chance.choices(self._kinds, cum_weights=self._weights)
        return kind.__name__, kind()

    def read(self) -> Request:
        """Any product."""
        return _get(f"/products/{self._any()}")

    def read_hot(self) -> Request:
        """One of two hundred."""
        return _get(f"/products/{product_id(self._chance.randrange(200))}")

    def read_unknown(self) -> Request:
        """An id without a product: a cached 404, sooner or later."""
        return _get(f"/products/unknown-{self._chance.randrange(UNKNOWN)}", 404)

    def read_unchanged(self) -> Request:
        """A read that may be answered 304."""
        return Request("GET", f"/products/{self._any()}", frozenset({200, 304}), headers='If-None-Match: "1"\r\n')

    def read_fresh(self) -> Request:
        """A read past the cache."""
        return Request("GET", f"/products/{self._any()}", frozenset({200}), headers="Cache-Control: no-cache\r\n")

    def read_many(self) -> Request:
        """Twenty products in one round trip, some of them unknown."""
        ids = {self._any() for _ in range(18)} | {f"unknown-{self._chance.randrange(UNKNOWN)}" for _ in range(2)}
        return _get("/products?" + "&".join(f"id={one}" for one in ids))

    def read_list(self) -> Request:
        """A page of the list, by name or by id."""
        return _get(f"/products?limit=20{self._chance.choice(('', '&q=product+number+1', '&below_reorder_point=true'))}")

    def read_ledger(self) -> Request:
        """The movements of a product."""
        return _get(f"/products/{self._any()}/stock/movements?limit=20")

    def count(self) -> Request:
        """Set a stock."""
        body = {"stock": self._chance.randrange(500, 2_000)}
        return Request("PUT", f"/products/{self._any()}/stock", frozenset({200}), _json(body))

    def adjust(self) -> Request:
        """Take or add under an idempotency key; now and then a retry."""
        if self._adjusted and self._chance.random() < REUSED_KEYS:
            return self._chance.choice(self._adjusted)
        self._serial += 1
        body = {"delta": self._chance.choice((-1, 1, 2)), "reason": "other", "reference": f"order-{self._serial}"}
        path = f"/products/{self._any()}/stock/adjustments"
        request = Request("POST", path, frozenset({200, 409}), _json(body), f"Idempotency-Key: key-{self._serial}\r\n")
        self._adjusted.append(request)
        del self._adjusted[:-200]
        return request

    def adjust_several(self) -> Request:
        """Three stocks in one transaction."""
        lines = [{"product_id": one, "delta": 1} for one in {self._any() for _ in range(3)}]
        return Request("POST", "/stock/adjustments", frozenset({200}), _json({"lines": lines, "reason": "receipt"}))

    def change_outdated(self) -> Request:
        """A change of a version that was never there."""
        headers = 'If-Match: "1000000000"\r\n'
        return Request("PATCH", f"/products/{self._any()}", frozenset({412}), _json({"price_cents": 1}), headers)

    def replace(self) -> Request:
        """Put a product that may have been deleted."""
        body = _json({"name": "Short-lived", "price_cents": 1})
        return Request("PUT", f"/products/{self._short_lived()}", frozenset({200, 201}), body)

    def delete(self) -> Request:
        """Delete a product that may be there."""
        return Request("DELETE", f"/products/{self._short_lived()}", frozenset({204, 404}))

    def send_nonsense(self) -> Request:
        """Bodies that are no JSON, break a rule, or ask for too much."""
        path = f"/products/{self._any()}/stock"
        status, body = self._chance.choice(((400, b"{"), (422, b'{"stock": -1}'), (422, b'{"stock": "many"}'), (422, b"[]")))
        return Request("PUT", path, frozenset({status}), body)

    def ask_nonsense(self) -> Request:
        """Paths that lead nowhere, each another one, and ids that cannot be."""
        self._serial += 1
        return _get(*self._chance.choice(((f"/nothing/{self._serial}", 404), (f"/products/%20{self._serial}", 422))))

    def _any(self) -> str:
        return product_id(self._chance.randrange(self._products))

    def _short_lived(self) -> str:
        return f"short-lived-{self._chance.randrange(SHORT_LIVED)}"


def _get(path: str, status: int = 200) -> Request:
    return Request("GET", path, frozenset({status}))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()

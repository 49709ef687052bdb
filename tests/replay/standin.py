"""A service on loopback that keeps the contract of adjustments, idempotency included, and fails when told to."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from tests.importer.standin import serving_app

Body = dict[str, Any]
Fault = Callable[[int, Body], Awaitable[Response | None]]


async def no_fault(number: int, body: Body) -> Response | None:  # noqa: ARG001  # a Fault
    return None


def refusal(slug: str, status: int, **fields: Any) -> JSONResponse:
    return JSONResponse({"type": f"/problems/{slug}", "title": "Title", "status": status, **fields}, status)


class Shop:
    """Stocks in a dictionary. `before` and `after` booking a request may put another answer in place of the true one."""

    def __init__(self, stocks: Mapping[str, int], *, before: Fault = no_fault, after: Fault = no_fault) -> None:
        self.before = before
        self.after = after
        self.stocks = dict(stocks)
        self.versions = Counter(stocks.keys())
        self.ledger: list[dict[str, Any]] = []
        for product_id, stock in stocks.items():
            self._book(product_id, stock, "opening", None)
        self.requests: list[Body] = []
        self.keys: list[str] = []
        self.answers: dict[str, tuple[bytes, int, Any]] = {}
        self.most_under_way = 0
        self._under_way: set[asyncio.Task[Any] | None] = set()

    async def adjust(self, request: Request) -> Response:
        raw = await request.body()
        body, key = json.loads(raw), request.headers["Idempotency-Key"]
        assert key.isascii()
        assert key.isprintable()
        assert 1 <= len(key) <= 255
        assert 1 <= len(body["lines"]) <= 2_000
        self.requests.append(body)
        self.keys.append(key)
        number = len(self.requests)
        self._under_way.add(asyncio.current_task())
        self.most_under_way = max(self.most_under_way, len(self._under_way))
        try:
            early = await self.before(number, body)
            if early is not None:
                return early
            answer = self._once(key, raw, body)
            late = await self.after(number, body)
            return late if late is not None else answer
        finally:
            self._under_way.discard(asyncio.current_task())

    def _once(self, key: str, raw: bytes, body: Body) -> Response:
        if key in self.answers:
            earlier, status, content = self.answers[key]
            if raw != earlier:
                return refusal("idempotency-key-reused", 422)
            return JSONResponse(content, status, headers={"Idempotent-Replayed": "true"})
        answer = self._decide(body)
        self.answers[key] = (raw, answer.status_code, json.loads(bytes(answer.body)))
        return answer

    def _decide(self, body: Body) -> JSONResponse:
        net: Counter[str] = Counter()
        for line in body["lines"]:
            assert line["delta"] != 0
            net[line["product_id"]] += line["delta"]
        if missing := [product_id for product_id in net if product_id not in self.stocks]:
            return refusal("product-not-found", 404, missing=missing)
        shortages = [
            {
                "product_id": product_id,
                "available": self.stocks[product_id],
                "requested": -delta,
                "version": self.versions[product_id],
            }
            for product_id, delta in net.items()
            if self.stocks[product_id] + delta < 0
        ]
        if shortages:
            return refusal("insufficient-stock", 409, shortages=shortages)
        for product_id, delta in net.items():
            self.stocks[product_id] += delta
            self.versions[product_id] += 1
        for line in body["lines"]:
            self._book(line["product_id"], line["delta"], body["reason"], body["reference"])
        lines = [
            line | {"stock": self.stocks[line["product_id"]], "version": self.versions[line["product_id"]]}
            for line in body["lines"]
        ]
        return JSONResponse({"lines": lines})

    def _book(self, product_id: str, delta: int, reason: str, reference: str | None) -> None:
        self.ledger.append(
            {
                "product_id": product_id,
                "version": self.versions[product_id],
                "delta": delta,
                "stock_after": self.stocks[product_id],
                "reason": reason,
                "reference": reference,
            }
        )

    async def read_many(self, request: Request) -> Response:
        ids = request.query_params.getlist("id")
        assert 1 <= len(ids) <= 250
        items = [{"id": product_id, "stock": self.stocks[product_id]} for product_id in ids if product_id in self.stocks]
        return JSONResponse({"items": items, "missing": []})

    async def movements(self, product_id: str, request: Request) -> Response:
        """In pages of three, so that reading on is needed."""
        newest_first = [movement for movement in reversed(self.ledger) if movement["product_id"] == product_id]
        start = int(request.query_params.get("after", 0))
        more = start + 3 < len(newest_first)
        return JSONResponse({"items": newest_first[start : start + 3], "next": str(start + 3) if more else None})


@contextlib.asynccontextmanager
async def open_shop(shop: Shop) -> AsyncIterator[str]:
    """The shop on a free loopback port; gives its URL."""
    app = FastAPI(openapi_url=None)
    app.add_api_route("/stock/adjustments", shop.adjust, methods=["POST"], response_model=None)
    app.add_api_route("/products", shop.read_many, methods=["GET"], response_model=None)
    app.add_api_route("/products/{product_id}/stock/movements", shop.movements, methods=["GET"], response_model=None)
    async with serving_app(app) as url:
        yield url

"""A service on loopback that keeps the batch contract and fails when told to.

Real HTTP over a real socket, so that the importer's connections, time-outs and signals are what they are in use.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

Item = dict[str, Any]
Fault = Callable[[int, list[Item]], Awaitable[Response | None]]

_LEGAL_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class NoAnswer(Response):
    """Closes the connection in the middle of an answer: the client cannot know what was done."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})


def problem(status: int, detail: str, **headers: str) -> JSONResponse:
    return JSONResponse(
        {"type": "/problems/x", "title": "Title", "status": status, "detail": detail},
        status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        media_type="application/problem+json",
    )


async def no_fault(number: int, items: list[Item]) -> Response | None:  # noqa: ARG001  # a Fault
    return None


class StandIn:
    """Products in a dictionary. `before` and `after` storing a batch may put another answer in place of the true one."""

    def __init__(self, *, before: Fault = no_fault, after: Fault = no_fault) -> None:
        self.before = before
        self.after = after
        self.products: dict[str, Item] = {}
        self.requests: list[list[Item]] = []
        self.kept: dict[str, list[Item]] = {}
        """What was answered, by Idempotency-Key: a batch that comes again is not done again."""
        self.under_way = 0
        self.most_under_way = 0

    async def batch(self, request: Request) -> Response:
        items: list[Item] = (await request.json())["items"]
        assert 1 <= len(items) <= 1000
        key = request.headers["Idempotency-Key"]
        self.requests.append(items)
        number = len(self.requests)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            early = await self.before(number, items)
            if early is not None:
                return early
            results = self.kept[key] = self.kept.get(key) or list(self._store(items))
            late = await self.after(number, items)
            return late if late is not None else JSONResponse({"results": results})
        finally:
            self.under_way -= 1

    def _store(self, items: list[Item]) -> Iterator[Item]:
        seen: set[str] = set()
        for index, item in enumerate(items):
            reason = self._objection(item, seen)
            seen.add(item["id"])
            if reason:
                refusal = {"title": "Invalid", "status": 422, "detail": "not acceptable", "errors": [reason]}
                yield {"index": index, "id": item["id"], "outcome": "refused", "problem": refusal}
                continue
            old = self.products.get(item["id"])
            kept_stock = old["stock"] if old else 0
            new = {"stock": kept_stock, "reorder_point": 0, **item}
            same = old is not None and all(old[name] == value for name, value in new.items())
            if same and old is not None:
                yield {"index": index, "id": item["id"], "outcome": "unchanged", "version": old["version"]}
                continue
            self.products[item["id"]] = {**new, "version": old["version"] + 1 if old else 1}
            outcome = "updated" if old else "created"
            yield {"index": index, "id": item["id"], "outcome": outcome, "version": self.products[item["id"]]["version"]}

    @staticmethod
    def _objection(item: Item, seen: set[str]) -> Item | None:
        if item["id"] in seen:
            return {"pointer": "#/id", "detail": "twice in the batch"}
        if not _LEGAL_ID.fullmatch(item["id"]):
            return {"pointer": "#/id", "detail": "illegal id"}
        if not item["name"].strip() or len(item["name"]) > 200:
            return {"pointer": "#/name", "detail": "1 to 200 characters"}
        return None

    def state(self) -> dict[str, Item]:
        """The products without what repeats may change."""
        return {key: {name: value for name, value in item.items() if name != "version"} for key, item in self.products.items()}


class _Server(uvicorn.Server):
    """Says when it is ready, and leaves the signals of the test process alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(standin: StandIn) -> AsyncIterator[str]:
    """The stand-in on a free loopback port; gives its URL."""
    app = FastAPI(openapi_url=None)
    app.add_api_route("/products/batch", standin.batch, methods=["POST"], response_model=None)
    async with serving_app(app) as url:
        yield url


@contextlib.asynccontextmanager
async def serving_app(app: FastAPI) -> AsyncIterator[str]:
    """An application on a free loopback port; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = _Server(uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", access_log=False))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        await server.ready.wait()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """A URL where every connection is refused: the port is taken, but nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"

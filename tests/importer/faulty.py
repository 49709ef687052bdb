"""A Larder on loopback that fails when told to: the whole application on real servers, and faults in front of it.

It speaks HTTP over a real socket, so that a client's connections, time-outs and signals are what they are in use.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import uvicorn
from psycopg.rows import dict_row
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.main import create_app
from app.settings import Settings

Fault = Callable[[int, Any], Awaitable[Response | None]]
"""Is given the number of the request (from 1) and its body; may wait, and may give the answer."""


class NoAnswer(Response):
    """Closes the connection in the middle of an answer: the client cannot know what was done."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})


def problem(status: int, detail: str = "", kind: str = "x", **headers: str) -> JSONResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"type": f"/problems/{kind}", "title": "Title", "status": status, "detail": detail}
    return JSONResponse(body, status, named, "application/problem+json")


async def no_fault(number: int, body: Any) -> None:
    """Let the application answer."""


def fails(times: int, answer: Callable[[], Response]) -> Fault:
    """A fault of the first so many requests."""

    async def fault(number: int, body: Any) -> Response | None:  # noqa: ARG001  # a Fault
        return answer() if number <= times else None

    return fault


class Faulty:
    """An application whose writes may fail ``before`` or ``after`` they are done; keeps what it was asked."""

    def __init__(self, app: ASGIApp | None = None, *, before: Fault = no_fault, after: Fault = no_fault) -> None:
        self._app = app
        self.before = before
        self.after = after
        self.requests: list[Any] = []
        self.keys: list[str] = []
        self.most_under_way = 0
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await self._write(Request(scope, receive), send)
        elif self._app is not None:
            await self._app(scope, receive, send)

    async def _write(self, request: Request, send: Send) -> None:
        body = await request.body()
        self.requests.append(json.loads(body))
        self.keys.append(request.headers["Idempotency-Key"])
        number, asked = len(self.requests), self.requests[-1]
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        done: list[Message] = []
        segments: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return segments.pop() if segments else await request.receive()

        async def keep(message: Message) -> None:
            done.append(message)

        try:
            answer = await self.before(number, asked)
            if answer is None and self._app is not None:
                await self._app(request.scope, receive_again, keep)
                answer = await self.after(number, asked)
            if answer is not None:
                await answer(request.scope, request.receive, send)
                return
            for message in done:
                await send(message)
        finally:
            self._under_way -= 1


class Larder(Faulty):
    """The whole application at ``url``, behind faults."""

    def __init__(self, app: ASGIApp, database_url: str) -> None:
        super().__init__(app)
        self.url = ""
        self._database_url = database_url

    async def products(self) -> dict[str, dict[str, Any]]:
        """The rows in PostgreSQL, by id."""
        statement = "SELECT id, name, price_cents, stock, reorder_point, version, reserved FROM products"
        async with await psycopg.AsyncConnection.connect(self._database_url, row_factory=dict_row) as connection:
            rows = await (await connection.execute(statement)).fetchall()
        return {row["id"]: row for row in rows}


@contextlib.asynccontextmanager
async def larder_on(database_url: str, redis_url: str, namespace: str, **settings: str) -> AsyncIterator[Larder]:
    """A Larder that works until the test gives it faults."""
    given = {"ACCESS": "open", "DATABASE_URL": database_url, "REDIS_URL": redis_url, "CACHE_NAMESPACE": namespace} | settings
    app = create_app(Settings.from_env({f"LARDER_{name}": value for name, value in given.items()}))
    larder = Larder(app, database_url)
    async with app.router.lifespan_context(app), serving(larder) as larder.url:
        yield larder


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """An application on a free loopback port; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", access_log=False, interface="asgi3")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.005)
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

"""The endpoint of the change feed: long polls, and streams of server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from app.access import keys
from app.api.bodies import JSON
from app.api.changes_query import ChangesQuery, changes_query, feed_cursor
from app.api.context import larder_of
from app.api.openapi import CHANGES, answers
from app.api.parameters import CHANGES_PARAMETERS
from app.api.responses import NO_STORE
from app.api.routes import LIST_COST, request_router, requires
from app.cache.errors import CacheError
from app.feed.errors import FeedError
from app.feed.events import Cursor, Page
from app.feed.feed import Feed

HEARTBEAT_S = 15.0
"""Longest silence of a stream."""
RETRY_MS = 1_000
"""How long a client of a stream waits before it connects again."""
EVENT_STREAM = "text/event-stream"
STREAM_PAGE = 1_000
"""Most events between two ids of a stream."""
Result = TypeVar("Result")

router = request_router("changes")


@router.get(
    "/changes",
    operation_id="listChanges",
    summary="Follow every change of products, stock and reservations",
    description=(
        "Returns the events after a cursor, in order, each at least once: the newest state of every product and reservation"
        " that changed, and every movement of stock. After an event, no read returns an older state. Take a cursor first, then"
        " read the list, then follow. With `Accept: text/event-stream` the answer is an endless stream of server-sent events."
        " An answer may gain members, and the feed may gain types of events: ignore what you do not know."
    ),
    response_class=Response,
    responses=answers(
        {200: CHANGES},
        (
            *("cursor-too-old", "cursor-of-another-history", "invalid-request"),
            *("overloaded", "feed-starting", "database-unavailable", "internal-error"),
        ),
    ),
    openapi_extra={"parameters": CHANGES_PARAMETERS},
)
@requires(keys.Scope.CHANGES_READ, LIST_COST)
async def list_changes(request: Request) -> Response:
    """Return some events, or a stream of them."""
    query, feed = changes_query(request), larder_of(request).feed
    if EVENT_STREAM in request.headers.get("accept", ""):
        start = query.after or await feed.start()
        await feed.next_page(start, query.types, STREAM_PAGE)  # so that an error is answered as such
        return _EventStream(feed, start, query)
    async with _leaving(request.receive) as gone:
        page = await _unless(gone, feed.read(query.after, types=query.types, limit=query.limit, wait_s=query.wait_s))
    if page is None:
        return Response(status_code=204)  # to nobody: the client has left
    return Response(_rendered(page, "json"), 200, {"Cache-Control": NO_STORE}, JSON)


class _EventStream(Response):
    """A stream of server-sent events. It has one page under way: the next one is made when the client has read most of it."""

    def __init__(self, feed: Feed, start: Cursor, query: ChangesQuery) -> None:
        super().__init__(None, 200, {"Cache-Control": NO_STORE, "X-Accel-Buffering": "no"}, EVENT_STREAM)
        del self.headers["content-length"]
        self._feed = feed
        self._start = start
        self._query = query

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._feed.following(self._start) as place:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _send(send, f"retry: {RETRY_MS}\nid: {feed_cursor(self._start)}\n\n".encode())
            async with _leaving(receive) as gone:
                while not (gone.done() or self._feed.ending):
                    try:
                        page = await self._feed.next_page(place.cursor, self._query.types, STREAM_PAGE)
                    except (FeedError, CacheError):
                        break  # the client connects again, and is answered with the problem
                    place.move(page.next)
                    if page.events:
                        await _send(send, _rendered(page, "stream"))
                    elif not page.more and not await self._wait(place.cursor, gone):
                        if self._feed.failing:
                            break
                        await _send(send, f": still here\nid: {feed_cursor(place.cursor)}\n\n".encode())
            await send({"type": "http.response.body", "body": b""})

    async def _wait(self, cursor: Cursor, gone: "asyncio.Task[None]") -> bool:
        """Wait for a change, the end of the client or the end of the service. Return whether one came in time."""
        moved = asyncio.create_task(self._feed.wait(cursor, HEARTBEAT_S))
        try:
            done, _ = await asyncio.wait((moved, gone), timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            return gone in done or (moved in done and moved.result())
        finally:
            moved.cancel()


def _rendered(page: Page, form: str) -> bytes:
    """Return a page in one of the two forms, which is made once for all followers at the same place."""
    found = page.renderings.get(form)
    if found is None:
        found = page.renderings[form] = _as_json(page) if form == "json" else _as_stream(page)
    return found


def _as_json(page: Page) -> bytes:
    rest = f'],"next":{json.dumps(feed_cursor(page.next))},"more":{json.dumps(page.more)}}}'
    return b'{"items":[' + b",".join(event.body for event in page.events) + rest.encode()


def _as_stream(page: Page) -> bytes:
    """Return the events of a page. Only the last one has an id, so that a client that was cut off gets the others again."""
    frames = [b"event: %s\ndata: %s\n" % (event.type.encode(), event.body) for event in page.events]
    return b"\n".join(frames) + f"id: {feed_cursor(page.next)}\n\n".encode()


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


@asynccontextmanager
async def _leaving(receive: Receive) -> "AsyncIterator[asyncio.Task[None]]":
    """Watch for the client to leave. The task is done when it has."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(watch())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _unless(gone: "asyncio.Task[None]", work: Awaitable[Result]) -> Result | None:
    """Return the result of some work, or ``None`` if the client leaves first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()

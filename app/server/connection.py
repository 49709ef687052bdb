"""The protocol of one connection: its pace, its time limits, and the response to what is refused."""

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.load import Kind
from app.api.middleware import peer_of
from app.api.problem_types import TYPES
from app.server.framing import PIECE_BYTES, Framing
from app.server.refusal import problem_bytes
from app.server.timeouts import Patience, Wait, Waiting
from app.sparse_log import SparseLog
from app.telemetry.request_lines import Answered

_REASONS = {
    "malformed-request": "not HTTP/1.1, or too many bytes or lines of headers",
    "request-timeout": "its head or body came too slowly",
    "overloaded": "the bodies under way have too many bytes together",
}
"""Why a request was refused, for the log, by the type of the problem."""
_LONGEST_PAUSE_S = 3
"""Longest pause that a client is asked to make when its request is shed."""
_NEVER_SHED = frozenset({"/livez", "/readyz", "/metrics", "/dashboard", "/dashboard/data"})
_LISTS = frozenset({"/changes", "/products", "/products/batch", "/stock/adjustments", "/stock/movements"})
_log = SparseLog(logging.getLogger("larder.http"))


class _PipelineFlow(FlowControl):
    """Flow control that resumes reading only while no pipelined request waits.

    uvicorn resumes after every response. A client that pipelines could then send thousands of requests per response, and all
    of them would wait in memory.
    """

    def __init__(self, transport: asyncio.Transport, pipelining: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._pipelining = pipelining

    @override
    def resume_reading(self) -> None:
        if self.read_paused and not self._pipelining():
            super().resume_reading()


class Connection(Framing):
    """The protocol that is made for each connection."""

    _refusal = ""
    """The type of the problem with which a request was refused, or an empty text. Nothing is parsed after it."""
    _unparsed: bytes | None = None
    """What came after requests that wait, and is parsed once they are answered."""
    _stretch: object = None
    """Changes whenever the client has read most of what was written for it."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin, with the flow control for pipelined requests."""
        super().connection_made(transport)
        self.flow = _PipelineFlow(transport, lambda: bool(self.pipeline) or self._unparsed is not None)
        self.patience = Patience(self.loop.time())
        self._stats = self._larder.requests.connections
        self._stats.open += 1

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """End, and give back what the connection held."""
        super().connection_lost(exc)
        self._stats.open -= 1
        self._held.release()
        self._unparsed = None

    @override
    def data_received(self, data: bytes) -> None:
        """Parse data in pieces, so that limits are checked in between."""
        if self._unparsed is not None:
            self._unparsed += data
        elif len(data) <= PIECE_BYTES:
            self._take(data)
        else:
            self._take_pieces(data)

    def _take_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            if self.transport.is_closing():
                return
            if self.pipeline:
                # Each waiting request takes many times the memory of its bytes.
                self._unparsed = data[start:]
                return
            self._take(data[start : start + PIECE_BYTES])

    def _take_unparsed(self) -> None:
        data, self._unparsed = self._unparsed, None
        if data is not None and not self.transport.is_closing():
            self._take_pieces(data)
            self.flow.resume_reading()

    def _take(self, piece: bytes) -> None:
        if not self._refusal and not self._parse(piece):
            self._refuse()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start to answer a request, unless it was refused while it waited behind others."""
        if self._refusal and cycle is self.cycle and cycle.more_body:
            self._refuse()
        elif not ((load := self._larder.load).pressure and load.sheds(_kind_of(cycle.scope))):
            super()._start_asgi_task(cycle, app)
        elif self.flow.write_paused:
            super()._start_asgi_task(cycle, partial(self._shed_later, cycle))
        else:
            self._shed(cycle)

    async def _shed_later(self, cycle: RequestResponseCycle, *_: object) -> None:
        """Refuse a request once the client reads its answers. Meanwhile the request is under way, and those after it wait."""
        await self.flow.drain()
        if not cycle.disconnected:
            self._shed(cycle)

    def _shed(self, cycle: RequestResponseCycle) -> None:
        """Refuse a request because the process has too much to do. Its body, if it has one, is read and dropped."""
        self._larder.admission.refused["overloaded"] += 1
        pause_s = random.randint(1, _LONGEST_PAUSE_S)
        cycle.response_started = cycle.response_complete = True
        identity = b"%032x" % random.getrandbits(128)
        self.transport.write(
            problem_bytes(
                "overloaded",
                identity,
                cycle.default_headers,
                last=not cycle.keep_alive,
                bodiless=cycle.scope["method"] == "HEAD",
                retry_after_s=pause_s,
            )
        )
        if not cycle.keep_alive:
            self.transport.close()
        scope = cycle.scope
        self._larder.telemetry.lines.write(
            Answered(
                identity.decode(),
                scope["method"],
                "shed",
                scope["path"],
                TYPES["overloaded"].status,
                0.0,
                peer=peer_of(scope),
                problem="overloaded",
                reason=f"{self._larder.load.reason}, so the request was shed",
            ),
            {},
            sampled=self._larder.telemetry.sample().line,
        )
        if self.pipeline:
            self.loop.call_soon(self.on_response_complete)  # not here, since the next request may be refused, too, and so on
        else:
            self.on_response_complete()

    @override
    def on_response_complete(self) -> None:
        """Go on with the next request. Unlike uvicorn's own method, this one sets no timer."""
        self.server_state.total_requests += 1
        if self._held.size:
            self._held.release(but_present=not self.cycle.response_complete)
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self._unparsed is not None and not self.pipeline:
            self.loop.call_soon(self._take_unparsed)  # not here, since a response can be complete while data is parsed

    @override
    def resume_writing(self) -> None:
        """Go on to write, since the client has read most of what was written before."""
        self._stretch = object()
        super().resume_writing()

    def waiting(self) -> Waiting | None:
        """Return what the connection waits for its client to do, or ``None`` while it is the server's turn."""
        if unread := self.transport.get_write_buffer_size():
            return Waiting(Wait.READ, self._stretch, unread)
        if self._refusal or self.transport.is_closing():
            return None
        if (last := getattr(self.cycle, "scope", None)) is None:
            return Waiting(Wait.HEAD, None)  # the first byte counts towards the limit of the first head
        if last is not self.scope:
            return Waiting(Wait.HEAD, self.scope, paused=self.flow.read_paused)
        if not self._whole:
            return Waiting(Wait.BODY, self.scope, self._held.received, paused=self.flow.read_paused)
        return Waiting(Wait.IDLE, self.cycle) if self.cycle.response_complete else None

    def idle(self) -> Waiting | None:
        """Return the wait for a request of which no byte has come, or ``None`` if a request is under way."""
        waiting = self.waiting()
        begun = waiting is None or (waiting.kind is not Wait.IDLE and not (waiting.kind is Wait.HEAD and self.scope is None))
        return None if begun else waiting

    def make_room(self) -> None:
        """Close the idle connection. No answer is sent, since the client would take it for that of its next request."""
        self.transport.close()
        # A TLS transport has sent its part of the end by then, and would keep its socket until the client has sent the other.
        self.loop.call_soon(self.transport.abort)

    def give_up(self, wait: Wait) -> None:
        """End the connection, whose client took too long. A request that has begun is answered with 408 where possible."""
        if wait is Wait.READ:
            self._stats.closed[wait.value] += 1
            self.transport.abort()  # a close would wait for the client to read
        elif self.idle() is not None:
            self._stats.closed[wait.value] += 1
            self.transport.close()
        else:
            self._fault = "request-timeout"
            self._refuse(wait.value)

    def _refuse(self, reason: str | None = None) -> None:
        """Answer a refused request with a problem, like every other error, and close the connection.

        Complete requests before it are answered first. Otherwise the client would treat this response as theirs.
        """
        if not self._refusal:
            self._refusal = self._fault
            self._stats.closed[reason or self._fault] += 1
        if self.transport.is_closing():
            return
        if self.pipeline and self.cycle.more_body:
            self.flow.pause_reading()  # the response follows those of the requests before it
            return
        # There is no cycle before the first request.
        answered = getattr(self.cycle, "response_complete", True)
        if not answered and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        identity = b"%032x" % random.getrandbits(128)
        _log.info("request %s: %s", identity.decode(), _REASONS[self._refusal])
        if self._whole or self.cycle.scope is not self.scope or not self.cycle.response_started:
            self.transport.write(problem_bytes(self._refusal, identity, self.server_state.default_headers))
        # Otherwise the unfinished request has its response already, and the client would treat a second one as the response to
        # its next request.
        self.transport.close()
        if getattr(self.cycle, "more_body", False):
            # Whoever waits for the body learns at once that it will not come, and writes nothing behind the problem.
            self.cycle.disconnected = True
            self.cycle.message_event.set()


def _kind_of(scope: Any) -> Kind:
    """Return the kind of a request by its head."""
    path, method = scope["path"], scope["method"]
    if path in _NEVER_SHED:
        return Kind.NEVER
    if path in _LISTS or path.endswith("/movements"):
        return Kind.REQUEST if (path, method) == ("/products", "POST") else Kind.LIST
    return Kind.HIT if method in ("GET", "HEAD") else Kind.REQUEST

"""The protocol of one connection: the hot read, limits on what is accepted, and the response to what is not HTTP."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import httptools
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.server.capacity import HeldBody
from app.server.hot_read import HotReads
from app.server.refusal import closing_problem
from app.server.timeouts import Patience, Wait, Waiting
from app.sparse_log import SparseLog

MAX_HEAD_BYTES = 65_536
"""Most bytes of a request line, its headers, its trailers and the extensions of its chunks together."""
MAX_FIELDS = 1_000
"""Most header and trailer lines of a request."""
_PIECE = 16_384
"""Bytes that are parsed before limits are checked. A line without an end can exceed its limit by at most this many bytes."""
_FEW = 4 * MAX_FIELDS
"""A head of at most this many bytes exceeds no limit, because the shortest line has four bytes."""
_CHUNK_FRAME = 20
"""Bytes around a chunk that are not counted: its length and two line ends."""
_FRAMING = frozenset({b"expect", b"transfer-encoding"})
_OTHER_PROTOCOLS = (b"RTSP/", b"ICE/")
_VERSIONS = frozenset({"1.0", "1.1"})
_REASONS = {
    "malformed-request": "not HTTP/1.1, or too many bytes or lines of headers",
    "request-timeout": "its head or body came too slowly",
    "overloaded": "the bodies under way have too many bytes together",
}
"""Why a request was refused, for the log, by the type of the problem."""
_log = SparseLog(logging.getLogger("larder.http"))


class _Refused(Exception):
    """A request that the parser accepts, but this service does not. Raised in the parser's callbacks."""


def _size(fields: Sequence[tuple[bytes, bytes]]) -> int:
    return sum([len(name) + len(value) + 4 for name, value in fields])


class _Trailers(list[tuple[bytes, bytes]]):
    """A list that counts the trailers of a request together with its headers, and keeps none of them.

    Trailers have no meaning here, because proxies may pass them on unchecked (RFC 9110, 6.5.1).
    """

    def __init__(self) -> None:
        super().__init__()
        self._size = self._lines = 0

    def begin(self, size: int, lines: int) -> None:
        """Start from the bytes and lines of the head."""
        self._size, self._lines = size, lines

    @override
    def append(self, field: tuple[bytes, bytes]) -> None:
        """Count a trailer."""
        self._size += _size([field])
        self._lines += 1
        if self._size > MAX_HEAD_BYTES or self._lines > MAX_FIELDS:
            raise _Refused


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


class Connection(HotReads):
    """The protocol that uvicorn makes for each connection.

    An offered ``Upgrade`` is ignored, as RFC 9110, 7.8 allows. The parser has no option for that: it ends such a request after
    its head, and would treat the body as the next request. The head is therefore parsed a second time without the offer, by a
    new parser, which also parses the bytes after it.
    """

    _offer: bytes | None = None
    """A head without its offer, to be parsed a second time."""
    _refusal = ""
    """The type of the problem with which a request was refused, or an empty text. Nothing is parsed after it."""
    _fault = "malformed-request"
    """The type of the problem if the parser or one of its callbacks fails."""
    _whole = True
    """Whether the last request with a complete head is complete."""
    _piece: bytes = b""
    """What is being parsed."""
    _unparsed: bytes | None = None
    """What came after requests that wait, and is parsed once they are answered."""
    _other_protocol = False
    """Whether what is being parsed may have a request line of another protocol."""
    _line: bytearray | None = None
    """The pieces before this one of a head that had no header line by then."""
    _head: object = None
    """The request whose head continues beyond the piece in which it began."""
    _head_bytes = 0
    """Number of bytes in the further pieces of that head."""
    _framed: object = None
    """The request whose body continues beyond the piece in which its head ended."""
    _frame_bytes = 0
    """Lower bound of the number of bytes of that request outside its body."""
    _body_bytes = 0
    _chunks = 0
    _chunked: object = None
    """The request to which the last chunk belonged."""
    _stretch: object = None
    """Changes whenever the client has read most of what was written for it."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin, with the flow control for pipelined requests."""
        super().connection_made(transport)
        self.flow = _PipelineFlow(transport, lambda: bool(self.pipeline) or self._unparsed is not None)
        self.patience = Patience()
        self._trailers = _Trailers()
        self._stats = self._larder.requests.connections
        self._stats.open += 1
        self._held = HeldBody(self._stats, self._larder.settings.bodies_limit_bytes)

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
        elif len(data) <= _PIECE:
            self._take(data)
        else:
            self._take_pieces(data)

    def _take_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            if self.pipeline:
                # Each waiting request takes many times the memory of its bytes.
                self._unparsed = data[start:]
                return
            self._take(data[start : start + _PIECE])

    def _take_unparsed(self) -> None:
        data, self._unparsed = self._unparsed, None
        if data is not None and not self.transport.is_closing():
            self._take_pieces(data)
            self.flow.resume_reading()

    def _take(self, piece: bytes) -> None:
        if self._refusal:
            return
        self._piece = piece
        self._other_protocol = self._line is not None or b" RTSP/" in piece or b" ICE/" in piece
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError:
            self._refuse()
        except httptools.HttpParserUpgrade as offer:
            self._take_without_offer(memoryview(piece)[offer.args[0] :])
        else:
            if self._whole and getattr(self.cycle, "scope", None) is self.scope:
                return
            if self._exceeds():
                self._refuse()

    def _take_without_offer(self, rest: memoryview) -> None:
        # This is a loop, because each of many requests in one piece may make an offer.
        while True:
            head, self._offer = self._offer, None
            assert head is not None  # noqa: S101 - on_headers_complete found the offer
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
            except httptools.HttpParserError:
                self._refuse()
                return
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                break
        if not (self._whole and getattr(self.cycle, "scope", None) is self.scope) and self._exceeds():
            self._refuse()

    def _exceeds(self) -> bool:
        """Return whether an unfinished request has too many bytes or lines outside its body. The parser has no limit."""
        if getattr(self.cycle, "scope", None) is not self.scope:  # also before the first request
            if self._head is self.scope:
                self._head_bytes += len(self._piece)
            else:
                self._head, self._head_bytes = self.scope, 0
            self._keep_request_line()
            return self._head_bytes > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_FIELDS
        if self._framed is self.scope:
            body = self._body_bytes + _CHUNK_FRAME * self._chunks
            self._frame_bytes = max(0, self._frame_bytes + len(self._piece) - body)
        else:
            self._framed, self._frame_bytes = self.scope, 0
        self._body_bytes = self._chunks = 0
        return self._frame_bytes > MAX_HEAD_BYTES

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, unless it announces a body that this service cannot delimit."""
        name = name.lower()
        if name in _FRAMING:
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            elif value.lower() != b"chunked" or self.parser.get_http_version() == "1.0":
                # The parser ignores other codings before "chunked", and version 1.0 has none (RFC 9112, 6.1).
                raise _Refused
        self.headers.append((name, value))

    @override
    def on_headers_complete(self) -> None:
        """Accept the request unless its head is too large or of another protocol. An offer is left out first."""
        fed = len(self._piece) + (self._head_bytes + _PIECE if self._head is self.scope else 0)
        if fed > _FEW and (len(self.headers) > MAX_FIELDS or self._head_size(self.headers) > MAX_HEAD_BYTES):
            raise _Refused
        if self._other_protocol:
            self._check_protocol()
        if self.parser.should_upgrade():
            self._leave_out_the_offer()
            return
        if self.parser.get_http_version() not in _VERSIONS:
            raise _Refused
        self._whole = False
        self._held.begin()
        super().on_headers_complete()
        self.headers = self._trailers

    def _keep_request_line(self) -> None:
        if self.headers:
            self._line = None
        elif self._line is None:
            self._line = bytearray(self._piece)
        else:
            self._line += self._piece

    def _check_protocol(self) -> None:
        """Refuse RTSP and ICE, which the parser takes for HTTP. It does not say which protocol the request line named."""
        sent, self._line = (self._line or b"") + self._piece, None
        line = b"%b %b " % (self.parser.get_method(), self.url)
        if any(line + protocol in sent for protocol in _OTHER_PROTOCOLS):
            raise _Refused

    def _head_size(self, fields: Sequence[tuple[bytes, bytes]]) -> int:
        return len(self.parser.get_method()) + len(self.url) + len("  HTTP/1.1\r\n\r\n") + _size(fields)

    def _leave_out_the_offer(self) -> None:
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise _Refused  # the bytes after its head are not a body (RFC 9110, 9.3.6)
        kept = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        self._offer = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(kept))

    def on_chunk_header(self) -> None:
        """Count a chunk. The size of the head is computed here, since few requests have chunks."""
        self._chunks += 1
        if self._chunked is not self.scope:
            self._chunked = self.scope
            head = list(self.cycle.scope["headers"])
            self._trailers.begin(self._head_size(head), len(head))

    @override
    def on_body(self, body: bytes) -> None:
        """Count and pass on a part of the body."""
        self._body_bytes += len(body)
        if not self.cycle.response_complete and not self._held.add(len(body)):
            self._fault = "overloaded"
            raise _Refused
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        if self._offer is not None:
            return  # the second parsing of this request ends it
        self._whole = True
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start to answer a request, unless it was refused while it waited behind others."""
        if self._refusal and cycle is self.cycle and cycle.more_body:
            self._refuse()
            return
        super()._start_asgi_task(cycle, app)

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
        if self.cycle is None:
            return Waiting(Wait.HEAD, None)  # the first byte counts towards the limit of the first head
        if self.cycle.scope is not self.scope:
            return Waiting(Wait.HEAD, self.scope, paused=self.flow.read_paused)
        if not self._whole:
            return Waiting(Wait.BODY, self.scope, self._held.received, paused=self.flow.read_paused)
        return Waiting(Wait.IDLE, self.cycle) if self.cycle.response_complete else None

    def idle(self) -> bool:
        """Return whether no request is under way, not even the beginning of one."""
        waiting = self.waiting()
        return waiting is not None and (waiting.kind is Wait.IDLE or (waiting.kind is Wait.HEAD and self.scope is None))

    def make_room(self) -> None:
        """Close the idle connection. No answer is sent, since the client would take it for that of its next request."""
        self.transport.close()

    def give_up(self, wait: Wait) -> None:
        """End the connection, whose client took too long. A request that has begun is answered with 408 where possible."""
        if wait is Wait.READ:
            self._stats.closed[wait.value] += 1
            self.transport.abort()  # a close would wait for the client to read
        elif self.idle():
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
            self.transport.write(closing_problem(self._refusal, identity, self.server_state.default_headers))
        # Otherwise the unfinished request has its response already, and the client would treat a second one as the response to
        # its next request.
        self.transport.close()
        if self.cycle is not None and self.cycle.more_body:
            # Whoever waits for the body learns at once that it will not come, and writes nothing behind the problem.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

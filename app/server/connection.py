"""The protocol of one connection: the hot read, limits on what is accepted, and the response to what is not HTTP."""

import asyncio
import logging
import random
from collections.abc import Sequence, Sized
from typing import Any

import httptools
from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.problem_types import TYPES
from app.api.problems import MEDIA_TYPE, Problem
from app.server.hot_read import HotReads

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
_VERSIONS = frozenset({"1.0", "1.1"})
_log = logging.getLogger("larder.http")


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

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    @override
    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Connection(HotReads):
    """The protocol that uvicorn makes for each connection.

    An offered ``Upgrade`` is ignored, as RFC 9110, 7.8 allows. The parser has no option for that: it ends such a request after
    its head, and would treat the body as the next request. The head is therefore parsed a second time without the offer, by a
    new parser, which also parses the bytes after it.
    """

    _offer: bytes | None = None
    """A head without its offer, to be parsed a second time."""
    _refused = False
    _whole = True
    """Whether the last request with a complete head is complete."""
    _piece = 0
    """Number of bytes in the piece that is being parsed."""
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

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin, with the flow control for pipelined requests."""
        super().connection_made(transport)
        self.flow = _PipelineFlow(transport, self.pipeline)
        self._trailers = _Trailers()

    @override
    def data_received(self, data: bytes) -> None:
        """Parse data in pieces, so that limits are checked in between."""
        self._unset_keepalive_if_required()
        if len(data) <= _PIECE:
            self._take(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            self._take(view[start : start + _PIECE])

    def _take(self, piece: bytes | memoryview) -> None:
        if self._refused:
            return
        self._piece = len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError:
            self.send_400_response("not HTTP/1.1, or too many bytes or lines of headers")
        except httptools.HttpParserUpgrade as offer:
            self._take_without_offer(memoryview(piece)[offer.args[0] :])
        else:
            if self._whole and getattr(self.cycle, "scope", None) is self.scope:
                return
            if self._exceeds():
                self.send_400_response("too many bytes or lines of headers")

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
                self.send_400_response("not HTTP/1.1, or too many bytes or lines of headers")
                return
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                break
        if not (self._whole and getattr(self.cycle, "scope", None) is self.scope) and self._exceeds():
            self.send_400_response("too many bytes or lines of headers")

    def _exceeds(self) -> bool:
        """Return whether an unfinished request has too many bytes or lines outside its body. The parser has no limit."""
        if getattr(self.cycle, "scope", None) is not self.scope:  # also before the first request
            if self._head is self.scope:
                self._head_bytes += self._piece
            else:
                self._head, self._head_bytes = self.scope, 0
            return self._head_bytes > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_FIELDS
        if self._framed is self.scope:
            body = self._body_bytes + _CHUNK_FRAME * self._chunks
            self._frame_bytes = max(0, self._frame_bytes + self._piece - body)
        else:
            self._framed, self._frame_bytes = self.scope, 0
        self._body_bytes = self._chunks = 0
        return self._frame_bytes > MAX_HEAD_BYTES

    @override
    def on_headers_complete(self) -> None:
        """Accept the request unless its head is too large or of another version. An offer is left out first."""
        fed = self._piece + (self._head_bytes + _PIECE if self._head is self.scope else 0)
        if fed > _FEW and (len(self.headers) > MAX_FIELDS or self._head_size(self.headers) > MAX_HEAD_BYTES):
            raise _Refused
        if self.parser.should_upgrade():
            self._leave_out_the_offer()
            return
        if self.parser.get_http_version() not in _VERSIONS:
            raise _Refused
        self._whole = False
        super().on_headers_complete()
        self.headers = self._trailers

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
        if self._refused and cycle is self.cycle and cycle.more_body:
            self.send_400_response("not HTTP/1.1, or too many bytes or lines of headers")
            return
        super()._start_asgi_task(cycle, app)

    @override
    def send_400_response(self, msg: str) -> None:
        """Answer refused bytes with a problem, like every other error, and close the connection.

        Complete requests before them are answered first. Otherwise the client would treat this response as theirs.
        """
        self._refused = True
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
        _log.info("request %s: %s", identity.decode(), msg)
        if self._whole or self.cycle.scope is not self.scope or not self.cycle.response_started:
            self._write_problem(identity)
        # Otherwise the unfinished request has its response already, and the client would treat a second one as the response to
        # its next request.
        self.transport.close()

    def _write_problem(self, identity: bytes) -> None:
        kind = TYPES["malformed-request"]
        body = Problem(kind.slug, f"{kind.meaning} {kind.remedy}").body()
        usual = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\n%bcache-control: no-store\r\ncontent-length: %d\r\ncontent-type: %b\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n%b" % (usual, len(body), MEDIA_TYPE.encode(), identity, body)
        )

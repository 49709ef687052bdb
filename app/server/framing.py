"""The framing of requests: where each one ends, and limits on what it has outside its body.

The parser accepts more than this service does, and has no limits. Its callbacks, which are the methods ``on_…``, count and
check what it found.
"""

import asyncio
from collections.abc import Sequence

import httptools
from typing_extensions import override

from app.server.capacity import HeldBody
from app.server.hot_read import HotReads

MAX_HEAD_BYTES = 65_536
"""Most bytes of a request line, its headers, its trailers and the extensions of its chunks together."""
MAX_FIELDS = 1_000
"""Most header and trailer lines of a request."""
PIECE_BYTES = 16_384
"""Bytes that are parsed before limits are checked. A line without an end can exceed its limit by at most this many bytes."""
_FEW = 4 * MAX_FIELDS
"""A head of at most this many bytes exceeds no limit, because the shortest line has four bytes."""
_CHUNK_FRAME = 20
"""Bytes around a chunk that are not counted: its length and two line ends."""
_FRAMING = frozenset({b"expect", b"transfer-encoding"})
_OTHER_PROTOCOLS = (b"RTSP/", b"ICE/")
_VERSIONS = frozenset({"1.0", "1.1"})


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


class Framing(HotReads):
    """The part of a connection that parses its requests.

    An offered ``Upgrade`` is ignored, as RFC 9110, 7.8 allows. The parser has no option for that: it ends such a request after
    its head, and would treat the body as the next request. The head is therefore parsed a second time without the offer, by a
    new parser, which also parses the bytes after it.
    """

    _offer: bytes | None = None
    """A head without its offer, to be parsed a second time."""
    _fault = "malformed-request"
    """The type of the problem if the parser or one of its callbacks fails."""
    _whole = True
    """Whether the last request with a complete head is complete."""
    _piece = b""
    """What is being parsed."""
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
    _heads = 0
    """Number of heads found so far."""
    _held: HeldBody

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin."""
        super().connection_made(transport)
        self._trailers = _Trailers()
        self._held = HeldBody(self._larder.requests.connections, self._larder.settings.bodies_limit_bytes)

    def _parse(self, piece: bytes) -> bool:
        """Parse at most ``PIECE_BYTES``. Return whether they are accepted; if not, ``_fault`` has the type of the problem."""
        self._piece = piece
        self._other_protocol = self._line is not None or b" RTSP/" in piece or b" ICE/" in piece
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError:
            return False
        except httptools.HttpParserUpgrade as offer:
            if not self._parse_without_offer(memoryview(piece)[offer.args[0] :]):
                return False
        # The first condition is the usual one: no request is unfinished.
        return (self._whole and getattr(self.cycle, "scope", None) is self.scope) or not self._exceeds()

    def _parse_without_offer(self, rest: memoryview) -> bool:
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
                return False
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return True

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
        fed = len(self._piece) + (self._head_bytes + PIECE_BYTES if self._head is self.scope else 0)
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
        self._heads += 1
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
        # What comes after the response is not kept.
        if not self._held.add(len(body), kept=not self.cycle.response_complete):
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

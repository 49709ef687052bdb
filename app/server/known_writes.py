"""Known writes: writes whose headers were parsed before need no parser.

The headers of a client's writes differ in little but the length of the body. When a write came alone in one piece, the bytes
between its first line and its body are kept as a *known head*, with what the parser found in them. A later piece that consists
of a plain first line, the same bytes and as many bytes of a body as they announce is one whole request, in which the parser
would find the same again. Only the parser is spared: such a write is shed, admitted, checked and answered as any other.

Only a piece that begins where a request may begin is looked at, as in ``known_heads``.
"""

import asyncio
import re

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.fields import KnownHead, fields_in
from app.api.request_state import FIELDS
from app.server.connection import Connection
from app.server.framing import PIECE_BYTES

_FIRST_LINE = re.compile(rb"(DELETE|PATCH|POST|PUT) (/[A-Za-z0-9._:/-]*) HTTP/1\.1\r\n")
_END = b"\r\n\r\n"
_PARSED_EACH_TIME = frozenset({b"expect", b"idempotency-key", b"traceparent", b"transfer-encoding"})
"""Fields of heads that are not kept: they frame the body in another way, or have another value in each request."""
_EXPECTS_100_CONTINUE = False
_KEEPS_ALIVE = True
"""Whether a connection with a known head stays open."""
_MOST_HEADS = 1_000
"""Most known heads of writes of a process."""
_MOST_FIELDS = 32
"""Most fields of a head that is kept."""
_MOST_IN_VAIN = 16
"""Heads that a connection may add without one that comes again. Without a limit it could displace those of all others."""
_LARGEST_BYTES = 1_024
"""Size of the largest head that is kept."""


class KnownWrites(Connection):
    """A connection that takes writes with a known head without the parser."""

    _heads_vary = False
    """Whether its writes have fields that differ in each request. Then no head of this connection is kept or looked for."""
    _kept_in_vain = 0
    """Number of heads that were kept since the last one that was found."""

    def _begin_write(self, piece: bytes) -> bool:
        """Begin a write with a known head. Return ``False`` if the piece is anything else."""
        if (
            self._heads_vary
            or self._unparsed is not None
            or len(piece) > PIECE_BYTES
            or (line := _FIRST_LINE.match(piece)) is None
        ):
            return False
        start = line.end()
        end = piece.find(_END, start - 2) + 4
        head = self._larder.known_heads.get(piece[start:end])
        if head is None or len(piece) - end != head.body_bytes:
            return False
        self._kept_in_vain = 0
        self._begin_known(line[1].decode(), line[2], head, piece[end:])
        return True

    def _begin_known(self, method: str, path: bytes, head: KnownHead, body: bytes) -> None:
        """Do what the parser's callbacks do. The body is too small to count towards the limit of all bodies."""
        self.on_message_begin()
        scope = self.scope
        scope["method"] = method
        scope["path"] = path.decode()
        scope["raw_path"] = path
        scope["query_string"] = b""
        scope["headers"] = head.headers
        scope["state"][FIELDS] = head.fields
        self.headers = self._trailers
        self._heads += 1
        self._held.begin()
        # By position, because names would be put into a dictionary and taken out again.
        self.cycle = cycle = RequestResponseCycle(
            scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            self.access_log,
            self.server_state.default_headers,
            asyncio.Event(),
            _EXPECTS_100_CONTINUE,
            _KEEPS_ALIVE,
            self.on_response_complete,
        )
        self._start_asgi_task(cycle, self.app)
        if not cycle.response_complete:  # it was not shed
            cycle.body += body
            cycle.more_body = False
            cycle.message_event.set()

    def _keep_write(self, piece: bytes) -> None:
        """Keep the head of a write that came alone in one piece, and was parsed."""
        if self._heads_vary or (line := _FIRST_LINE.match(piece)) is None or not self.cycle.keep_alive:
            return
        start = line.end()
        end = piece.find(_END, start - 2) + 4
        fields = fields_in(self.cycle.scope)
        if not _PARSED_EACH_TIME.isdisjoint(fields):
            self._heads_vary = True
            return
        announced = fields.get(b"content-length", b"0")
        # Blank lines after a body belong to no request, and are not announced.
        if end - start > _LARGEST_BYTES or len(fields) > _MOST_FIELDS or announced != b"%d" % (len(piece) - end):
            return
        if b" RTSP/" in piece or b" ICE/" in piece:
            return  # behind another first line the parser might take such a value for a protocol
        self._kept_in_vain += 1
        self._heads_vary = self._kept_in_vain >= _MOST_IN_VAIN
        heads = self._larder.known_heads
        if len(heads) >= _MOST_HEADS:
            heads.clear()
        heads[piece[start:end]] = KnownHead(list(self.cycle.scope["headers"]), fields, len(piece) - end)

"""What `larder serve` does with a connection: the hot read, its bounds, and an answer to what is not HTTP."""

import asyncio
import logging
import random
from collections.abc import Sized

from uvicorn.protocols.http.flow_control import FlowControl

from app.api.hot_read import HotReads
from app.api.problems import MEDIA_TYPE, TYPES, Problem

MAX_HEAD_BYTES = 65_536
"""Of a request line and its headers. What came in one piece with the end of the head is not refused any more."""
MAX_FIELDS = 1_000
"""Header lines of a request, or trailer lines after its body."""
_log = logging.getLogger("larder.http")


class _InTurn(FlowControl):
    """Reads on only when no request waits for its turn.

    uvicorn reads on with every answer. A client that pipelines gets thousands of requests in with each, and they pile up.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Connection(HotReads):
    """The protocol class that uvicorn makes for each connection."""

    _head: object = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin, with requests taken in their turn."""
        super().connection_made(transport)
        self.flow = _InTurn(transport, self.pipeline)

    def data_received(self, data: bytes) -> None:
        """Parse what came. The parser keeps a head that has no end, however long it grows."""
        super().data_received(data)
        if getattr(self.cycle, "scope", None) is self.scope:  # also while there has been no request yet
            self._head = None
        elif self._head is self.scope:
            self._head_bytes += len(data)
        else:
            self._head, self._head_bytes = self.scope, 0
        if (self._head and self._head_bytes > MAX_HEAD_BYTES) or len(self.headers or ()) > MAX_FIELDS:
            self.send_400_response("too many bytes or lines of headers")

    def on_headers_complete(self) -> None:
        """Take the request. What comes after its body are trailers: they decide nothing (RFC 9110, 6.5.1)."""
        super().on_headers_complete()
        self.headers = []

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that the parser refused as a problem, like every other error, and close the connection.

        Not before the requests that came whole before them have their answers: this one would be taken for theirs.
        """
        if self.transport.is_closing():
            return
        if not getattr(self.cycle, "response_complete", True) and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        identity = b"%032x" % random.getrandbits(128)
        _log.info("request %s: %s", identity.decode(), msg)
        kind = TYPES["malformed-request"]
        body = Problem(kind.slug, f"{kind.meaning} {kind.remedy}").body()
        usual = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\n%bcache-control: no-store\r\ncontent-length: %d\r\ncontent-type: %b\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n%b" % (usual, len(body), MEDIA_TYPE.encode(), identity, body)
        )
        self.transport.close()

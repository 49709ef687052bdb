"""Known heads: reads whose headers were parsed before need no parser.

Clients repeat their headers. When a plain read came alone in one piece, all that followed its first line is kept as a *known
head*. A later piece that consists of such a first line and the same bytes is answered at once if it is a hit, because the
parser would find in it what it found before. Validity is not kept: the key, the rate and the load are checked for each request.

Only a piece that begins where a request may begin is looked at. Otherwise a first line inside another request's head or body
could be taken for a request.
"""

import random
import re
import time
from functools import partial
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.access.key_ring import Caller
from app.api.admission import PlainHead
from app.api.load import Kind
from app.api.request_state import CALLER
from app.cache.ports import Value
from app.cache.write_through import Peeked
from app.products.product import is_product_id
from app.server.known_writes import KnownWrites
from app.server.timeouts import Wait, Waiting

_FIRST_LINE = re.compile(rb"GET /products/([A-Za-z0-9._:-]{1,64}) HTTP/1\.1\r\n")
_MOST_HEADS = 1_000
"""Most known heads of a process."""
_LARGEST_BYTES = 1_024
"""Size of the largest head that is kept."""


class Read:
    """A read under way that the parser has not seen."""

    __slots__ = ("began", "caller", "found", "last", "piece", "tag")

    def __init__(self, piece: bytes, tag: bytes, caller: Caller, began: float) -> None:
        self.piece = piece
        self.tag = tag
        self.caller = caller
        self.began = began
        self.found: Peeked = None
        self.last = False
        """Whether the connection is closed after it."""


class KnownHeads(KnownWrites):
    """A connection that answers reads with a known head."""

    _read: Read | None = None
    """The read under way that the parser has not seen."""
    _usual_head = b""
    """The known head of the connection's last read that had one."""
    _usual: PlainHead | None = None
    """What it says."""
    _latest: object = None
    """The last read that was answered unseen by the parser, if no request was parsed since."""

    @override
    def data_received(self, data: bytes) -> None:
        """Answer a read with a known head, parse anything else, and keep the head of a plain read that came alone."""
        if self._read is not None:
            self._unparsed = data if self._unparsed is None else self._unparsed + data
            self.flow.pause_reading()
        elif not self._expects_request():
            super().data_received(data)
        elif not self._begin(data):
            self._latest = None
            if not self._begin_write(data):
                self._parse_first(data)

    def _parse_first(self, data: bytes) -> None:
        """Parse a piece that begins where a request may begin, and keep its head if it was one whole request."""
        plain, heads = self._plain_head, self._heads
        super().data_received(data)
        if self._heads == heads + 1 and self._expects_request(answered=False):
            if self._plain_head is not plain:
                self._keep_head(data)
            else:
                self._keep_write(data)

    def _expects_request(self, *, answered: bool = True) -> bool:
        """Return whether the parser is between two requests, and whether the earlier one is answered if that is asked."""
        if getattr(self.cycle, "scope", None) is not self.scope or self._refusal:
            return False  # there is no cycle before the end of the first head
        return self._whole and (getattr(self.cycle, "response_complete", True) or not answered)

    def _keep_head(self, piece: bytes) -> None:
        line = _FIRST_LINE.match(piece)
        if line is None or len(piece) - line.end() > _LARGEST_BYTES or self._plain_head is None:
            return
        heads = self._larder.admission.plain_heads
        if len(heads) >= _MOST_HEADS:
            heads.clear()
        heads[piece[line.end() :]] = self._plain_head

    def _begin(self, piece: bytes) -> bool:
        """Begin a read with a known head. Return ``False`` if the piece is anything else, or cannot be admitted at once."""
        if (line := _FIRST_LINE.match(piece)) is None or (head := self._known_head(piece, line.end())) is None:
            return False
        larder, product_id, began = self._larder, line[1].decode(), time.monotonic()
        if self._unparsed is not None or self.flow.write_paused or self.transport.is_closing():
            return False
        if larder.load.pressure and larder.load.may_shed(Kind.HIT):
            return False
        if not is_product_id(product_id) or (caller := larder.admission.reader(head.authorization, began)) is None:
            return False
        self._read = read = Read(piece, head.tag, caller, began)
        larder.products.peek(product_id, partial(self._peeked_unseen, read))
        return True

    def _known_head(self, piece: bytes, start: int) -> PlainHead | None:
        # A comparison takes less time than a look-up, and most connections repeat one head.
        if not (piece.endswith(self._usual_head) and len(piece) == start + len(self._usual_head)):
            head = piece[start:]
            if (plain := self._larder.admission.plain_heads.get(head)) is None:
                return None
            self._usual_head, self._usual = head, plain
        return self._usual

    def _peeked_unseen(self, read: Read, found: Peeked) -> None:
        if self.transport.is_closing():
            return  # the client has left
        if isinstance(found, Value):
            self._read, self._latest = None, read
            self._write_hit(found, read.tag, read.began, random.getrandbits(128), last=read.last)
            self.on_response_complete()
        else:
            read.found = found
            self._take(read.piece)
            self._read = None

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start to answer a request. One that was admitted before it was parsed goes to the application."""
        if self._read is not None:
            cycle.keep_alive = not self._read.last
            cycle.scope["state"][CALLER] = self._read.caller
            self._pass_on(cycle, app, self._read.found, self._read.began)
        else:
            super()._start_asgi_task(cycle, app)

    @override
    def waiting(self) -> Waiting | None:
        waiting = super().waiting()
        if waiting is None or waiting.kind is Wait.READ:
            return waiting
        if self._read is not None:
            return None
        return Waiting(Wait.IDLE, self._latest) if self._latest is not None and self._expects_request() else waiting

    @override
    def shutdown(self) -> None:
        """Close the connection, after the read under way if there is one."""
        if self._read is None:
            super().shutdown()
        else:
            self._read.last = True

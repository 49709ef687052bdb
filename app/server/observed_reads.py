"""Observed reads: the connections of a server that logs or traces requests.

Other servers use ``KnownHeads`` itself, so that their hits do not pay for a question whether they are observed. Here a hit that
is to be traced is left to the application, which makes the spans. A hit that is logged is answered as ever.
"""

import time
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.access.key_ring import Caller
from app.api.admission import ANYBODY, CALLER, Admission, PlainHead
from app.api.middleware import SAMPLED
from app.cache.ports import Value
from app.cache.tracing import Place
from app.cache.write_through import Peeked
from app.server.hot_read import PREFIX, ROUTE
from app.server.known_heads import KnownHeads, Read
from app.telemetry.request_lines import Answered

_HIT = "larder; hit"


class ObservedReads(KnownHeads):
    """A connection that asks for each plain read whether it is traced, and for each hit whether it is logged."""

    _sampled: bool | None = None
    """Whether the read in this piece is traced, if that was decided before it was parsed."""
    _caller: Caller = ANYBODY
    """The sender of the hit that is being answered."""

    @override
    def _begin(self, piece: bytes) -> bool:
        self._sampled = self._larder.telemetry.sampled()
        if self._sampled or not super()._begin(piece):
            return False
        self._sampled = None
        return True

    @override
    def _plain(self, scope: Any, product_id: str, admission: Admission) -> PlainHead | None:
        head = super()._plain(scope, product_id, admission)
        if head is None:
            return None
        decided, self._sampled = self._sampled, None
        sampled = self._larder.telemetry.sampled() if decided is None else decided
        scope["state"][SAMPLED] = sampled
        return None if sampled else head

    @override
    def _peeked(self, cycle: RequestResponseCycle, app: Any, tag: bytes, began: float, found: Peeked) -> None:
        self._caller = cycle.scope["state"][CALLER]
        super()._peeked(cycle, app, tag, began, found)

    @override
    def _peeked_unseen(self, read: Read, found: Peeked) -> None:
        self._caller = read.caller
        super()._peeked_unseen(read, found)

    @override
    def _pass_on(self, cycle: RequestResponseCycle, app: Any, found: Peeked, began: float) -> None:
        cycle.scope["state"][SAMPLED] = False  # otherwise it would not have been peeked
        super()._pass_on(cycle, app, found, began)

    @override
    def _write_hit(self, found: Value, tag: bytes, began: float, identity: int, *, last: bool) -> int:
        status = super()._write_hit(found, tag, began, identity, last=last)
        lines = self._larder.telemetry.lines
        if lines.wanted():
            duration_s = time.monotonic() - began
            peer = self.client[0] if self.client else ""
            lines.write_hit(
                Answered(
                    f"{identity:032x}",
                    "GET",
                    ROUTE,
                    PREFIX + found.key,
                    status,
                    duration_s,
                    self._caller.name,
                    self._caller.key_id,
                    peer,
                    _HIT,
                ),
                # Its time is that of the round trip, but for some microseconds.
                {Place.STORE: duration_s},
            )
        return status

"""Observed reads: the connections of a server that logs or traces requests.

Other servers use ``KnownHeads`` itself, so that their hits do not pay for a question whether they are observed. Here one number
is drawn for each plain read, before anything else is done for it. A hit is answered as ever, and told about afterwards if it
was drawn. A read that is left to the application takes along what was drawn.
"""

import time
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.access.key_ring import Caller
from app.api.admission import ANYBODY, Admission, PlainHead
from app.api.request_state import CALLER, SAMPLED
from app.cache.ports import Value
from app.cache.write_through import Peeked
from app.server.hot_read import PREFIX, ROUTE
from app.server.known_heads import KnownHeads
from app.telemetry.request_lines import Answered
from app.telemetry.telemetry import NOT_SAMPLED, Sampled

_HIT = "larder; hit"


class ObservedReads(KnownHeads):
    """A connection that draws for each plain read whether it is traced and logged."""

    _sampled: Sampled = NOT_SAMPLED
    """What was drawn for the read under way."""
    _caller: Caller = ANYBODY
    """The sender of the hit that was drawn."""

    @override
    def _begin(self, piece: bytes) -> bool:
        # A read that is not begun here is drawn for again, whatever this said.
        self._sampled = self._larder.telemetry.sample()
        begun = super()._begin(piece)
        if self._sampled is not NOT_SAMPLED and self._read is not None:
            self._caller = self._read.caller
        return begun

    @override
    def _plain(self, scope: Any, product_id: str, admission: Admission) -> PlainHead | None:
        self._sampled = self._larder.telemetry.sample()
        return super()._plain(scope, product_id, admission)

    @override
    def _peeked(self, cycle: RequestResponseCycle, app: Any, tag: bytes, began: float, found: Peeked) -> None:
        self._caller = cycle.scope["state"][CALLER]
        super()._peeked(cycle, app, tag, began, found)

    @override
    def _pass_on(self, cycle: RequestResponseCycle, app: Any, found: Peeked, began: float) -> None:
        cycle.scope["state"][SAMPLED] = self._sampled
        super()._pass_on(cycle, app, found, began)

    @override
    def _write_hit(self, found: Value, tag: bytes, began: float, identity: int, *, last: bool) -> int:
        status = super()._write_hit(found, tag, began, identity, last=last)
        if self._sampled is not NOT_SAMPLED:
            answered = Answered(
                f"{identity:032x}",
                "GET",
                ROUTE,
                PREFIX + found.key,
                status,
                time.monotonic() - began,
                self._caller.name,
                self._caller.key_id,
                self.client[0] if self.client else "",
                _HIT,
            )
            self._larder.telemetry.tell_hit(answered, self._sampled)
        return status

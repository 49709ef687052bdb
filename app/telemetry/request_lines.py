"""Lines in the log about single requests.

A request that failed, was refused, or was answered without the cache's help because something is out of order always has a
line, ten a second of each kind at most. Others have one on demand, for a share of them. The fields are named by OpenTelemetry's
semantic conventions; what these do not know is named ``larder.…``. Durations are in seconds.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from app.cache.tracing import Place
from app.sparse_log import SparseLog

MOST_PER_S = 10
"""Lines in one second about requests of one kind that nobody has asked for."""
_SERVER_ERROR = 500
_REFUSED = frozenset({401, 403, 421, 429})
_OUT_OF_ORDER = ("detail=redis-unavailable", "detail=unproven", "detail=unverified")
_WAITS = {
    Place.STORE: "larder.redis.duration",
    Place.SOURCE: "larder.postgresql.duration",
    Place.AUDIT: "larder.settle.duration",
}
_log = logging.getLogger("larder.request")


class Answered(NamedTuple):
    """A request and its answer."""

    request_id: str
    method: str
    route: str
    path: str
    status: int
    """0 if there was no answer."""
    duration_s: float
    client: str = ""
    key_id: str = ""
    peer: str = ""
    """Address from which the connection comes."""
    cache_status: str = ""
    problem: str = ""
    """Type of the problem that the answer carries."""
    reason: str = ""
    """What was wrong, for the operator."""


class RequestLines:
    """The lines of one process. ``clock`` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._failed, self._refused, self._degraded = (SparseLog(_log, clock, most=MOST_PER_S) for _ in range(3))

    def write(self, answered: Answered, waits: Mapping[Place, float], span_id: str = "", *, sampled: bool = False) -> None:
        """Write a line about a request if it has one. A request that is ``sampled`` always has."""
        level, sparse = self._kind_of(answered.status, answered.cache_status, waits)
        if sampled:
            self._write(answered, waits, span_id, level)
        elif sparse is not None and (left_out := sparse.take()) is not None:
            self._write(answered, waits, span_id, level, left_out)

    def writes_unsampled(self, status: int, cache_status: str, waits: Mapping[Place, float]) -> bool:
        """Return whether a request that was answered so, and was not sampled, may have a line."""
        return self._kind_of(status, cache_status, waits)[1] is not None

    def _kind_of(self, status: int, cache_status: str, waits: Mapping[Place, float]) -> tuple[int, SparseLog | None]:
        """Return the level of a request's line, and the limit on lines that nobody asked for; ``None`` if there is none."""
        if status >= _SERVER_ERROR or not status:
            return logging.WARNING, self._failed
        if status in _REFUSED:
            return logging.INFO, self._refused
        if Place.AUDIT in waits or cache_status.endswith(_OUT_OF_ORDER):
            return logging.WARNING, self._degraded
        return logging.INFO, None

    @staticmethod
    def _write(answered: Answered, waits: Mapping[Place, float], span_id: str, level: int, left_out: int = 0) -> None:
        # The client chose the path, and may have chosen part of the reason.
        text = f"{answered.method} {answered.path[:200]!r}: {answered.status} in {answered.duration_s * 1000:.1f} ms"
        if answered.problem:
            reason = answered.reason[:500]
            text += f", {answered.problem}: {reason if reason.isprintable() else repr(reason)}"
        if left_out:
            text += f" ({left_out} similar lines left out)"
        fields = fields_of(answered, waits, span_id)
        _log.log(level, "%s", text, extra=fields | {"larder.lines.left_out": left_out} if left_out else fields)


def fields_of(answered: Answered, waits: Mapping[Place, float], span_id: str = "") -> dict[str, object]:
    """Return the fields of a request's line; those without a value are left out."""
    fields: dict[str, object] = {
        "larder.request.id": answered.request_id,
        "http.request.method": answered.method,
        "http.route": answered.route,
        "url.path": answered.path[:200],
        "http.response.status_code": answered.status,
        "http.server.request.duration": round(answered.duration_s, 6),
        "larder.client": answered.client,
        "larder.key.id": answered.key_id,
        "network.peer.address": answered.peer,
        "larder.cache.status": answered.cache_status,
        "error.type": answered.problem,
        "trace_id": answered.request_id if span_id else "",
        "span_id": span_id,
    }
    fields |= {_WAITS[place]: round(seconds, 6) for place, seconds in waits.items()}
    return {name: value for name, value in fields.items() if value != ""}

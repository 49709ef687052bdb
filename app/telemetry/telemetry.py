"""The tracer of one process: adds up what each request waits for, and makes the spans of those that are traced."""

import random
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import NamedTuple

from typing_extensions import override

from app.cache.tracing import Place, Tracer, Unit
from app.telemetry.request_lines import Answered, RequestLines
from app.telemetry.spans import Attributes, Named, Parent, Span, Spans

_SYSTEMS = {Place.STORE: "redis", Place.SOURCE: "postgresql"}
_SERVER_ERROR = 500


class Work:
    """A unit: what it has waited for in seconds, and its innermost span if it is traced."""

    __slots__ = ("span", "waits")

    def __init__(self, waits: dict[Place, float], span: Span | None = None) -> None:
        self.waits = waits
        self.span = span


_present: ContextVar[Work | None] = ContextVar("larder_unit", default=None)


class Sampled(NamedTuple):
    """Whether a request is traced and has a line, as far as that is left to chance."""

    trace: bool
    line: bool


NOT_SAMPLED = Sampled(trace=False, line=False)


class Telemetry(Tracer):
    """What one process tells about its requests.

    Args:
        spans: where spans come from; ``None`` if nothing is traced.
        trace_percent: share of the requests that is traced. A request with a ``traceparent`` says itself whether it is.
        line_percent: share of the requests that has a line, whatever its answer.
        draw: a random number from 0 to 1.
    """

    def __init__(
        self,
        spans: Spans | None = None,
        *,
        trace_percent: float = 0.0,
        line_percent: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.lines = RequestLines()
        self._spans = spans
        self._trace_share = trace_percent / 100 if spans is not None else 0.0
        self._line_share = line_percent / 100
        self._share = max(self._trace_share, self._line_share)
        self._draw = draw

    @property
    @override
    def traces(self) -> bool:
        return self._spans is not None

    def sample(self) -> Sampled:
        """Draw for one request. One number decides on both, so that a request that is traced often has a line, too."""
        drawn = self._draw()
        if drawn >= self._share:
            return NOT_SAMPLED
        return Sampled(trace=drawn < self._trace_share, line=drawn < self._line_share)

    # ------------------------------------------------------------- requests

    def begin(self, request_id: str, parent: Parent | None, waits: dict[Place, float], *, sampled: Sampled | None) -> "Request":
        """Begin a request in the running task.

        Args:
            request_id: its id, which is the number of its trace.
            parent: what its ``traceparent`` says.
            waits: what it has waited for already.
            sampled: what was drawn for it, if that was done before.
        """
        drawn = self.sample() if sampled is None else sampled
        span = None
        if self._spans is not None and (drawn.trace if parent is None else parent.sampled):
            span = self._spans.of_request(request_id, parent)
        work = Work(waits, span)
        return Request(work, _present.set(work), sampled=drawn.line)

    def end(self, request: "Request") -> None:
        """End a request in the running task."""
        _present.reset(request.token)

    def tells(self, request: "Request", status: int, cache_status: str) -> bool:
        """Return whether there is anything to tell about a request that was answered so."""
        work = request.work
        return request.sampled or work.span is not None or self.lines.writes_unsampled(status, cache_status, work.waits)

    def tell(self, request: "Request", answered: Answered) -> None:
        """Tell about a request that has ended."""
        span = request.work.span
        if span is not None:
            name, attributes = _described(answered)
            span.answer(name, attributes, failed=answered.status >= _SERVER_ERROR or not answered.status)
        span_id = span.span_id if span is not None else ""
        self.lines.write(answered, request.work.waits, span_id, sampled=request.sampled)

    def tell_hit(self, answered: Answered, sampled: Sampled) -> None:
        """Tell about a hit that was answered without the application. It took no longer than its round trip to Redis.

        Its spans are made now, so that the other hits have no part in it.
        """
        span_id = ""
        if sampled.trace and self._spans is not None:
            span_id = self._spans.of_one_call(answered.request_id, _described(answered), _READ, answered.duration_s)
        self.lines.write(answered, {Place.STORE: answered.duration_s}, span_id, sampled=sampled.line)

    # ----------------------------------------------------------- the tracer

    @override
    def unit(self) -> Unit | None:
        return _present.get()

    @override
    def step(self, name: str, place: Place | None = None) -> "_Step":
        return _Step(self._spans, name, place)

    @override
    def wait(self, place: Place) -> "_Step":
        return _Step(None, "", place)

    @override
    def joined(self, name: str, units: Sequence[Unit], place: Place | None = None) -> "_Joined":
        return _Joined(self._spans, name, [unit for unit in units if isinstance(unit, Work)], place)


class Request:
    """A request under way. ``sampled`` says whether it has a line, whatever its answer."""

    __slots__ = ("sampled", "token", "work")

    def __init__(self, work: Work, token: Token[Work | None], *, sampled: bool) -> None:
        self.work = work
        self.token = token
        self.sampled = sampled


class _Step:
    """One step of the present unit."""

    __slots__ = ("_began", "_name", "_outer", "_place", "_span", "_spans", "_token")

    def __init__(self, spans: Spans | None, name: str, place: Place | None) -> None:
        self._spans = spans
        self._name = name
        self._place = place
        self._span: Span | None = None

    def __enter__(self) -> None:
        self._outer = outer = _present.get()
        if outer is None:
            return
        if outer.span is not None and self._spans is not None:
            name, attributes, calls = _named(self._name, self._place)
            self._span = self._spans.below(outer.span, name, attributes, calls=calls)
            self._token = _present.set(Work(outer.waits, self._span))
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._outer is None:
            return
        if self._place is not None:
            waits = self._outer.waits
            waits[self._place] = waits.get(self._place, 0.0) + time.monotonic() - self._began
        if self._span is not None:
            _present.reset(self._token)
            self._span.end(error)


class _Joined:
    """Work that is done once for several units.

    Its span lies within that of the first unit that is traced. It is linked with the spans of the others in both directions, so
    that it is found from each of them.
    """

    __slots__ = ("_name", "_place", "_span", "_spans", "_token", "_units", "_work")

    def __init__(self, spans: Spans | None, name: str, units: Sequence[Work], place: Place | None) -> None:
        self._spans = spans
        self._name = name
        self._units = units
        self._place = place
        self._span: Span | None = None

    def __enter__(self) -> None:
        traced = [unit.span for unit in self._units if unit.span is not None]
        if traced and self._spans is not None:
            first, *others = traced
            name, attributes, calls = _named(self._name, self._place)
            attributes = {**attributes, "larder.joined": len(self._units)}
            self._span = self._spans.below(first, name, attributes, others, calls=calls)
            for other in others:
                other.link(self._span)
        self._work = Work({}, self._span)
        self._token = _present.set(self._work)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _present.reset(self._token)
        if self._work.waits:
            # A request that waits for several items of a batch waits once.
            for waits in {id(unit.waits): unit.waits for unit in self._units}.values():
                for place, seconds in self._work.waits.items():
                    waits[place] = waits.get(place, 0.0) + seconds
        if self._span is not None:
            self._span.end(error)


def _described(answered: Answered) -> Named:
    """Return the name and the attributes of a request's span."""
    attributes: dict[str, str | int] = {
        "http.request.method": answered.method,
        "http.route": answered.route,
        "url.path": answered.path[:200],
        "http.response.status_code": answered.status,
        "larder.client": answered.client,
        "larder.key.id": answered.key_id,
        "larder.cache.status": answered.cache_status,
        "error.type": answered.problem,
    }
    given = {name: value for name, value in attributes.items() if value != ""}
    return Named(f"{answered.method} {answered.route}", given)


def _named(name: str, place: Place | None) -> tuple[str, Attributes, bool]:
    """Return a span's name and attributes, and whether it calls another server."""
    system = _SYSTEMS.get(place) if place is not None else None
    if system is None:
        return name, {}, False
    return f"{system} {name}", {"db.system.name": system, "db.operation.name": name}, True


_READ = Named(*_named("read", Place.STORE)[:2])
"""The span of a read's round trip to Redis."""

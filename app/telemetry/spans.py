"""Spans, as far as Larder uses them; ``otlp`` makes them with OpenTelemetry."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

Attributes = Mapping[str, str | int]


class Parent(NamedTuple):
    """The span of a client, as its ``traceparent`` names it; the numbers are hexadecimal."""

    trace_id: str
    span_id: str
    sampled: bool
    """Whether the client's side records this trace."""


class Named(NamedTuple):
    """The name and the attributes of a span."""

    name: str
    attributes: Attributes


class Span(Protocol):
    """A span that is not finished."""

    @property
    def span_id(self) -> str:
        """Its number, 16 hexadecimal digits."""

    def link(self, other: "Span") -> None:
        """Link another span of perhaps another trace."""

    def end(self, error: BaseException | None = None) -> None:
        """Finish it."""

    def answer(self, name: str, attributes: Attributes, *, failed: bool) -> None:
        """Name it, describe it, and finish it."""


class Spans(Protocol):
    """Where spans come from."""

    def of_request(self, trace_id: str, parent: Parent | None) -> Span:
        """Begin the first span of a request, in the trace of that number."""

    def below(
        self, parent: Span, name: str, attributes: Attributes, links: Sequence[Span] = (), *, calls: bool = False
    ) -> Span:
        """Begin a span within another one. ``calls`` says that it waits for another server."""

    def of_one_call(self, trace_id: str, request: Named, call: Named, duration_s: float) -> str:
        """Tell of a request that has just ended, and that waited for one call all the time; return its span's number."""

    def close(self) -> None:
        """Send what is left. It waits, so it is called in a thread."""

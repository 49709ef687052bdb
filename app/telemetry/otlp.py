"""Spans by OpenTelemetry's SDK, sent to a collector by OTLP over HTTP. Nothing else imports the SDK."""

import random
import time
from collections.abc import Sequence
from threading import Thread

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan
from typing_extensions import override

from app.telemetry.spans import Attributes, Named, Parent, Span, Spans

_CLOSE_S = 2.0
"""Longest time for the spans that are left. The SDK would give a collector that is away half a minute."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_ROOT = set_span_in_context(NonRecordingSpan(SpanContext(0, 0, is_remote=False)))
"""A context without a span. The running task's own context is never asked."""


class OtlpSpans(Spans):
    """The spans of one process.

    Args:
        url: where the collector takes traces, such as ``http://127.0.0.1:4318/v1/traces``.
        version: Larder's version.
    """

    def __init__(self, url: str, version: str) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # only spans of traced requests are begun
            resource=Resource.create({"service.name": "larder", "service.version": version}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._exporter = OTLPSpanExporter(url)
        self._processor = BatchSpanProcessor(self._exporter)
        self._provider.add_span_processor(self._processor)
        self._scope = InstrumentationScope("larder", version)
        self._tracer = self._provider.get_tracer("larder", version)

    @override
    def of_request(self, trace_id: str, parent: Parent | None) -> "_OtlpSpan":
        if parent is None:
            self._ids.next_trace_id = int(trace_id, 16)
            context = _ROOT
        else:
            remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=_SAMPLED)
            context = set_span_in_context(NonRecordingSpan(remote))
        return _OtlpSpan(self._tracer.start_span("request", context, SpanKind.SERVER))

    @override
    def below(
        self, parent: Span, name: str, attributes: Attributes, links: Sequence[Span] = (), *, calls: bool = False
    ) -> "_OtlpSpan":
        assert isinstance(parent, _OtlpSpan)  # noqa: S101 - there are no others
        kind = SpanKind.CLIENT if calls else SpanKind.INTERNAL
        linked = [Link(link.span.get_span_context()) for link in links if isinstance(link, _OtlpSpan)]
        return _OtlpSpan(self._tracer.start_span(name, set_span_in_context(parent.span), kind, attributes, linked))

    @override
    def of_one_call(self, trace_id: str, request: Named, call: Named, duration_s: float) -> str:
        ended_ns = time.time_ns()
        began_ns = ended_ns - int(duration_s * 1e9)
        # Finished spans are handed over as they are. To begin and end them through the SDK costs more.
        outer, inner = (
            SpanContext(int(trace_id, 16), self._ids.generate_span_id(), is_remote=False, trace_flags=_SAMPLED)
            for _ in range(2)
        )
        for span, context, parent, kind in (
            (call, inner, outer, SpanKind.CLIENT),
            (request, outer, None, SpanKind.SERVER),
        ):
            self._processor.on_end(
                ReadableSpan(
                    span.name,
                    context,
                    parent,
                    self._provider.resource,
                    span.attributes,
                    kind=kind,
                    instrumentation_scope=self._scope,
                    start_time=began_ns,
                    end_time=ended_ns,
                )
            )
        return f"{outer.span_id:016x}"

    @override
    def close(self) -> None:
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # which ends its attempts; the SDK has no type for it


class _OtlpSpan(Span):
    __slots__ = ("span",)

    def __init__(self, span: SdkSpan) -> None:
        self.span = span

    @property
    @override
    def span_id(self) -> str:
        return f"{self.span.get_span_context().span_id:016x}"

    @override
    def link(self, other: Span) -> None:
        if isinstance(other, _OtlpSpan) and self.span.is_recording():
            self.span.add_link(other.span.get_span_context())

    @override
    def end(self, error: BaseException | None = None) -> None:
        if isinstance(error, Exception):
            self.span.set_attribute("error.type", type(error).__qualname__)
            self.span.set_status(Status(StatusCode.ERROR, str(error)))
        self.span.end()

    @override
    def answer(self, name: str, attributes: Attributes, *, failed: bool) -> None:
        self.span.update_name(name)
        self.span.set_attributes(attributes)
        if failed:
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class _Ids(RandomIdGenerator):
    """Ids of spans, and the id of the request as that of its trace."""

    next_trace_id = 0

    @override
    def generate_trace_id(self) -> int:
        return self.next_trace_id or random.getrandbits(128)

"""A collector of traces: takes what is sent by OTLP over HTTP, and keeps the spans."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it arrived; the numbers are hexadecimal."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: Sequence[str]
    """The spans that it is linked with."""
    attributes: dict[str, str]
    began_ns: int
    lasted_ms: float
    failed: bool

    @classmethod
    def of(cls, span: Span) -> "Received":
        """Decode a span."""
        return cls(
            span.name,
            Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            [link.span_id.hex() for link in span.links],
            {attribute.key: _text(attribute.value) for attribute in span.attributes},
            span.start_time_unix_nano,
            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
            failed=span.status.code == 2,
        )


@dataclass(slots=True)
class Collector:
    """The spans received so far."""

    url: str
    spans: list[Received] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    """The attributes of whoever sent them."""

    def named(self, name: str) -> list[Received]:
        """Return the spans of that name, oldest first."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began_ns)

    def path(self, span: Received) -> list[str]:
        """Return the names from the first span of its trace down to this one."""
        above = [parent for parent in self.spans if parent.span_id == span.parent_id]
        return [*(self.path(above[0]) if above else ()), span.name]

    def tree(self, root: Received, depth: int = 0) -> str:
        """Return a span and what lies below it as lines of text."""
        said = [f"{name}={value}" for name, value in span_words(root)]
        line = f"{'  ' * depth}{root.name}  {root.lasted_ms:.1f} ms  {root.kind.lower()}  {' '.join(said)}".rstrip()
        below = sorted((span for span in self.spans if span.parent_id == root.span_id), key=lambda span: span.began_ns)
        return "\n".join([line, *(self.tree(span, depth + 1) for span in below)])


def span_words(span: Received) -> list[tuple[str, str]]:
    """Return what a line about a span says beside its name and duration."""
    shown = ("http.response.status_code", "larder.cache.status", "larder.joined", "error.type")
    links = [("links", ",".join(link[:4] for link in span.links))] if span.links else []
    return [("id", span.span_id[:4]), *((name, span.attributes[name]) for name in shown if name in span.attributes), *links]


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Listen on a free port until the end."""
    taken = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                taken.resources.append({attribute.key: _text(attribute.value) for attribute in sent.resource.attributes})
                taken.spans += [Received.of(span) for scope in sent.scope_spans for span in scope.spans]
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    taken.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield taken
    finally:
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()


def _text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    return str(getattr(value, kind)) if kind else ""

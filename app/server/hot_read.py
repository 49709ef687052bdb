"""The hot read: a hit that is answered without the framework.

For a plain ``GET /products/{id}`` whose slot is proven, a task, routing, dependencies and response objects cost more than
the cache does. Sending head and body separately costs another system call. Therefore the server's protocol answers
such a read itself: it parses the path, takes one place in a batched MGET, and writes head and stored bytes at once.

Everything else goes to the application: a miss, a bypass, an error, a query, a header that matters, or a connection whose
client does not read its answers. The slot already read is passed on in the request's state. The endpoint
``products.get_product`` gives the same response to the same request and is the documented one.

The price is that the head of the response is written in two places, and that ``_start_asgi_task`` and the fields of a cycle are
internal to uvicorn. A test compares status, headers and bodies of both ways for generated requests on a real server. It fails
if uvicorn changes them.
"""

import random
import re
import time
from functools import partial
from typing import Any

import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.api.admission import Admission, PlainHead
from app.api.context import STATE, Larder
from app.api.request_state import BEGAN, CALLER, READING
from app.cache.ports import Reading, Value
from app.cache.write_through import Peeked
from app.products.product import is_product_id
from app.server.exchange import Exchange, usual_lines

PREFIX = "/products/"
ROUTE = "/products/{product_id}"
# Headers that change what a read does or how it is traced.
_DECISIVE = frozenset({b"cache-control", b"if-match", b"origin", b"traceparent"})
# Headers that are looked at here.
_KNOWN = frozenset({b"authorization", b"host", b"if-none-match"})
_ONE_TAG = re.compile(rb'"[0-9]+"')
_NO_TAG = b""
_FOUND = (
    b"HTTP/1.1 200 OK\r\n%bcache-status: larder; hit\r\netag: %b\r\ncache-control: no-cache\r\ncontent-length: %d\r\n"
    b"content-type: application/json\r\nx-request-id: %032x\r\n%b\r\n%b"
)
_NOT_MODIFIED = (
    b"HTTP/1.1 304 Not Modified\r\n%bcache-status: larder; hit\r\netag: %b\r\ncache-control: no-cache\r\n"
    b"x-request-id: %032x\r\n%b\r\n"
)
_LAST = b"connection: close\r\n"


class HotReads(HttpToolsProtocol):
    """uvicorn's protocol for one connection. The application's lifespan has put the ``Larder`` into ``app_state``."""

    _plain_head: PlainHead | None = None
    """The head of the last plain read whose connection stays open."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, app_state, **more)
        self._larder: Larder = app_state[STATE]

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Answer a plain request here, and start a task of the application for any other."""
        scope = cycle.scope
        if scope["method"] != "GET" or not scope["path"].startswith(PREFIX) or self.flow.write_paused:
            self._start_application(cycle, app)
            return
        product_id = scope["path"][len(PREFIX) :]
        admission = self._larder.admission
        if (head := self._plain(scope, product_id, admission)) is None:
            self._start_application(cycle, app)
            return
        if cycle.keep_alive:
            self._plain_head = head
        began = time.monotonic()
        if (caller := admission.reader(head.authorization, began)) is None:
            self._start_application(cycle, app)
            return
        scope["state"][CALLER] = caller
        self._larder.products.peek(product_id, partial(self._peeked, cycle, app, head.tag, began))

    def _peeked(self, cycle: RequestResponseCycle, app: Any, tag: bytes, began: float, found: Peeked) -> None:
        if cycle.disconnected or self.transport.is_closing():
            return  # the client has left
        # A value is counted as a hit, so it is written here even if the connection has filled up meanwhile.
        if not isinstance(found, Value):
            self._pass_on(cycle, app, found, began)
            return
        cycle.response_started = cycle.response_complete = True
        self._write_hit(found, tag, began, random.getrandbits(128), last=not cycle.keep_alive)
        cycle.on_response()

    def _pass_on(self, cycle: RequestResponseCycle, app: Any, found: Peeked, began: float) -> None:
        """Let the application answer a read with what was found in the slot."""
        cycle.scope["state"][BEGAN] = began
        if isinstance(found, Reading):
            cycle.scope["state"][READING] = found
        self._start_application(cycle, app)

    def _start_application(self, cycle: RequestResponseCycle, app: Any) -> None:
        # The body of an answer to HEAD is left out by uvicorn.
        called: Any = app if cycle.scope["method"] == "HEAD" else Exchange(cycle, app).serve
        super()._start_asgi_task(cycle, called)

    def _write_hit(self, found: Value, tag: bytes, began: float, identity: int, *, last: bool) -> int:
        """Answer a hit, and return the status of the answer."""
        usual = usual_lines(*self.server_state.default_headers)
        closing = _LAST if last else b""
        etag = b'"%d"' % found.version
        if tag == etag:
            status, answer = 304, _NOT_MODIFIED % (usual, etag, identity, closing)
        else:
            status, answer = 200, _FOUND % (usual, etag, len(found.payload), identity, closing, found.payload)
        self.transport.write(answer)
        if last:
            self.transport.close()
        self._larder.requests.observe("GET", ROUTE, status, time.monotonic() - began)
        return status

    def _plain(self, scope: Any, product_id: str, admission: Admission) -> PlainHead | None:
        """Return what a plain read's headers say; ``None`` if the request is not plain."""
        if scope["query_string"] or not is_product_id(product_id):
            return None
        tag = _NO_TAG
        host = authorization = None
        for name, value in scope["headers"]:
            if name in _DECISIVE:
                return None
            if name in _KNOWN:
                if name == b"host" and host is None:
                    host = value
                elif name == b"authorization" and authorization is None:
                    authorization = value
                elif name == b"if-none-match" and not tag and _ONE_TAG.fullmatch(value):
                    tag = value
                else:
                    return None
        return PlainHead(tag, authorization) if host in admission.good_hosts else None

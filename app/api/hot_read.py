"""The hot read: a cached product without the framework.

Reason: routing, dependencies and response objects cost several times what the cache does. A plain ``GET /products/{id}`` whose
slot is proven is answered here, by parsing the path, taking one place in a joined MGET, and sending the stored bytes.

Price: these few lines say again what ``products.get_product`` says; a test compares status, headers and bodies of both over a
generated set of requests. Whatever is not plain (a miss, a bypass, an error, a query, a header that decides something) goes
to the ordinary endpoint, which stays the documented one; a miss asks for its slot twice.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable

from starlette.types import Scope, Send

from app.api.metrics import RequestStats
from app.cache.ports import Value
from app.products.product import is_product_id

PREFIX = "/products/"
ROUTE = "/products/{product_id}"
# Headers that decide what a read does or how it is traced.
_DECISIVE = frozenset({b"cache-control", b"if-match", b"traceparent"})
_ONE_TAG = re.compile(rb'"[0-9]+"')

Peek = Callable[[str], Awaitable[Value | None]]


class HotRead:
    """Answers plain reads of proven slots, in front of the application.

    Args:
        requests: where requests are counted.
        peek: reads a proven slot, or gives ``None``.
    """

    def __init__(self, requests: RequestStats, peek: Peek) -> None:
        self._requests = requests
        self._peek = peek

    async def answer(self, scope: Scope, send: Send) -> bool:
        """Answer one request and say so; ``False``: nothing was sent, the application has to."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(PREFIX):
            return False
        began = time.perf_counter()
        plain, tag = _plain(scope)
        if not plain or (value := await self._peek(scope["path"][len(PREFIX) :])) is None:
            return False
        status = await _answer(value, tag, send)
        self._requests.observe("GET", ROUTE, status, time.perf_counter() - began)
        return True


def _plain(scope: Scope) -> tuple[bool, bytes | None]:
    """Whether nothing but the id decides the answer; and the one tag of If-None-Match, if there is one."""
    if scope["query_string"] or not is_product_id(scope["path"][len(PREFIX) :]):
        return False, None
    tag = None
    for name, value in scope["headers"]:
        if name in _DECISIVE:
            return False, None
        if name == b"if-none-match":
            if tag is not None or not _ONE_TAG.fullmatch(value):
                return False, None
            tag = value
    return True, tag


async def _answer(value: Value, tag: bytes | None, send: Send) -> int:
    etag = b'"%d"' % value.version
    headers = [(b"cache-status", b"larder; hit"), (b"etag", etag), (b"cache-control", b"no-cache")]
    status, body = 200, value.payload
    if tag == etag:
        status, body = 304, b""
    else:
        headers += ((b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"))
    headers.append((b"x-request-id", secrets.token_hex(16).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return status

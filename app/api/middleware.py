"""The outermost ASGI layer, which every answer passes through.

Each answer gets ``X-Request-Id`` and is counted. HEAD is answered as GET without the body. An unexpected error is logged with
the request's id, and answered as a problem without internal details.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import larder_in
from app.api.exchange import deliver
from app.api.fields import fields_in
from app.api.metrics import RequestStats
from app.api.problem_types import TYPES
from app.api.problems import FieldError, Problem, invalid
from app.api.request_state import BEGAN, CALLER, PROBLEM, REQUEST_ID, SAMPLED
from app.cache.tracing import Place
from app.sparse_log import SparseLog
from app.telemetry.request_lines import Answered
from app.telemetry.spans import Parent
from app.telemetry.telemetry import Request, Telemetry

_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_log = logging.getLogger("larder.http")
_sparse_log = SparseLog(_log)
_SLASH = FieldError("must not contain an encoded slash: no id has one", parameter="path")


def parent_of(headers: Sequence[tuple[bytes, bytes]]) -> Parent | None:
    """Return the client's span if there is a valid ``traceparent`` (W3C Trace Context)."""
    found = [value for name, value in headers if name == b"traceparent"]
    parent = _TRACEPARENT.fullmatch(found[0]) if len(found) == 1 else None
    # Version 00 has no fifth part; a later one may.
    if parent is None or (parent[1] == b"00" and parent[5]):
        return None
    return Parent(parent[2].decode(), parent[3].decode(), bool(int(parent[4], 16) & 1))


class _Answer:
    """Passes one answer on. It adds the id, records the status, and leaves out the body of an answer to HEAD."""

    __slots__ = ("_id", "_send", "cache_status", "method", "status")

    def __init__(self, send: Send, identity: str, method: str) -> None:
        self._send = send
        self._id = identity.encode()
        self.method = method
        """The method of the request, as it was sent."""
        self.status = 0
        """The status of the answer; 0 before it has begun."""
        self.cache_status = ""

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            for name, value in headers:
                if name == b"cache-status":
                    self.cache_status = value.decode()
                    break
            message["headers"] = [*headers, (b"x-request-id", self._id)]
        elif self.method == "HEAD" and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        return self._send(message)


class OutermostLayer:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, requests: RequestStats, telemetry: Telemetry) -> None:
        self._app = app
        self._requests = requests
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state, now = scope.setdefault("state", {}), time.monotonic()
        began = state.get(BEGAN, now)
        method = scope["method"]
        parent = parent_of(scope["headers"]) if b"traceparent" in fields_in(scope) else None
        identity = parent.trace_id if parent is not None else f"{random.getrandbits(128):032x}"
        answer = _Answer(send, identity, method)
        state[REQUEST_ID] = identity
        peeked = {Place.STORE: now - began} if BEGAN in state else {}
        told = self._telemetry.begin(identity, parent, peeked, sampled=state.get(SAMPLED))
        if method == "HEAD":
            # Routes take only GET. The scope is copied, so that the server's own scope keeps HEAD.
            scope = {**scope, "method": "GET"}
        try:
            if b"%2f" in scope["raw_path"].lower():
                # If it were decoded to a slash, the path would not be the one that the client meant.
                await deliver(invalid([_SLASH]).response(scope), scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            # The service stops before the request is finished. A write that has begun may still be carried out.
            if not answer.status:
                kind = TYPES["overloaded" if method in ("GET", "HEAD") else "outcome-unknown"]
                response = Problem(kind.slug, f"{kind.meaning} {kind.remedy}").response(scope)
                await deliver(response, scope, receive, answer)
            raise
        except Problem as refusal:
            await deliver(refusal.response(scope), scope, receive, answer)
        except ClientDisconnect:
            _sparse_log.info("request %s: the client left before it had sent its body", identity)
        except Exception:
            _log.exception("request %s: %s %r failed", identity, method, scope["path"])
            if answer.status:
                raise
            kind = TYPES["internal-error"]
            response = Problem(kind.slug, f"{kind.meaning} {kind.remedy}").response(scope)
            await deliver(response, scope, receive, answer)
        finally:
            self._end(told, scope, answer, time.monotonic() - began)

    def _end(self, told: Request, scope: Scope, answer: _Answer, duration_s: float) -> None:
        """Count an answered request, and tell about it if there is anything to tell."""
        route = getattr(scope.get("route"), "path", "unmatched")
        self._requests.observe(answer.method, route, answer.status, duration_s)
        self._telemetry.end(told)
        if not self._telemetry.tells(told, answer.status, answer.cache_status):
            return
        state = scope["state"]
        caller, (problem, reason) = state.get(CALLER), state.get(PROBLEM, ("", ""))
        answered = Answered(
            state[REQUEST_ID],
            answer.method,
            route,
            scope["path"],
            answer.status,
            duration_s,
            caller.name if caller is not None else "",
            caller.key_id if caller is not None else "",
            peer_of(scope),
            answer.cache_status,
            problem,
            reason,
        )
        self._telemetry.tell(told, answered)


def peer_of(scope: Mapping[str, Any]) -> str:
    """Return the address from which a connection comes; empty for a Unix socket."""
    peer = scope.get("client")
    return peer[0] if peer else ""


class HostLayer:
    """ASGI middleware that refuses a request whose host is missing, malformed or not the service's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on. Raises ``Problem`` (400 or 421)."""
        if scope["type"] == "http":
            admission = larder_in(scope).admission
            if fields_in(scope).get(b"host") not in admission.good_hosts:
                admission.check_host(scope["headers"], scope["path"])
        return self._app(scope, receive, send)

"""Admission: whether a request may be carried out, decided from its head alone.

The host is checked first; then, by the route, the key, its scope, the origin of a write, and the rate of the client. The body
has not been read by then, and nothing is said about the resource.

In open mode nobody needs a key. There the host decides: a web page that has its own name resolved to this machine still sends
that name, and is refused.
"""

import ipaddress
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.access.errors import AccessError, Forbidden
from app.access.key_ring import Caller, KeyRing
from app.access.keys import Scope
from app.access.rates import Client, Limits
from app.api.fields import Headers, fields_in
from app.api.problems import Problem
from app.sparse_log import SparseLog

PROBES = frozenset({"/livez", "/readyz"})
"""Paths that are served under every host, because probes send an address."""
REFRESH_COST = 5
"""What a request with ``no-cache`` costs, because it reads PostgreSQL."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=%-]{1,255})(?::([0-9]{0,5}))?")
_MOST_HOSTS = 1_000
ANYBODY = Caller(Client("", Limits()), "", frozenset(Scope))
"""The sender of every request in open mode."""
log = logging.getLogger("larder.access")


class PlainHead(NamedTuple):
    """What the headers of a plain read say. Its host was checked already, its key was not."""

    tag: bytes
    """The one tag of ``If-None-Match``; empty if it is absent."""
    authorization: bytes | None


@dataclass(frozen=True, slots=True)
class Access:
    """What an operation needs: a scope, and as many units of the client's rate as it costs."""

    scope: Scope
    cost: int = 1


class Admission:
    """The rules by which one process admits requests.

    Args:
        ring: the keys; ``None`` in open mode.
        allowed_hosts: names under which the service is reached, besides the machine's own; ``None`` allows every name.
        cors_origins: origins whose pages may use the service.
        clock: a monotonic clock.
    """

    def __init__(
        self,
        ring: KeyRing | None,
        *,
        allowed_hosts: Iterable[str] | None = None,
        cors_origins: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ring = ring
        self.refused: Counter[str] = Counter()
        """Requests refused, by the slug of the problem."""
        self.good_hosts: set[bytes] = set()
        """``Host`` values that were checked and allowed."""
        self.plain_heads: dict[bytes, PlainHead] = {}
        """Heads of plain reads that were parsed before, by all their bytes after the first line."""
        self.cors = frozenset(cors_origins)
        self._allowed = None if allowed_hosts is None else frozenset(name.lower() for name in allowed_hosts)
        self._clock = clock
        self._writes = SparseLog(log, clock)

    @property
    def clients(self) -> Iterable[Client]:
        """The clients that this process knows."""
        return () if self.ring is None else self.ring.clients.values()

    def check_host(self, headers: Headers, path: str) -> None:
        """Check the host of a request.

        Raises:
            Problem: 400 if there is not exactly one, or it is malformed; 421 if the service is not reached under it.
        """
        values = [value for name, value in headers if name == b"host"]
        if len(values) == 1 and values[0] in self.good_hosts:
            return
        parsed = _HOST.fullmatch(values[0]) if len(values) == 1 else None
        if parsed is None:
            raise self._counted(Problem("invalid-header", _HOST_FAULT))
        name = parsed[1].decode().lower()
        if self._allowed is None or name in self._allowed or _is_own(name):
            if len(self.good_hosts) >= _MOST_HOSTS:
                self.good_hosts.clear()
            self.good_hosts.add(values[0])
        elif path not in PROBES:
            raise self._counted(Problem("host-not-allowed", _host_not_allowed(name)))

    def admit(self, scope: Mapping[str, Any], access: Access) -> Caller:
        """Return the sender of a request that may be carried out.

        Raises:
            AccessError: it has no valid key, its key lacks the scope, or its client has used up its rate.
            Problem: 403, a write from a web page of another site.
        """
        headers: Headers = scope["headers"]
        fields = fields_in(scope)
        try:
            caller = self._authorized(headers, access.scope)
            if scope["method"] not in _SAFE and (b"origin" in fields or b"sec-fetch-site" in fields):
                self._check_origin(headers)
            if caller is not ANYBODY:
                now = self._clock()
                caller.client.take(_cost(access, headers), now)
                if scope["method"] not in _SAFE:
                    caller.client.check_quotas(now)
        except AccessError as refusal:
            self.refused[refusal.reason] += 1
            raise
        return caller

    def reader(self, authorization: bytes | None, now: float) -> Caller | None:
        """Return the sender of a plain read; ``None`` unless the read may be answered without a further check.

        ``now`` is the monotonic time, which the caller needs itself.
        """
        if self.ring is None:
            return ANYBODY
        if authorization is None:
            return None
        caller = self.ring.recognised(authorization, now)
        return caller if caller is not None and caller.may_read and caller.client.try_take(1, now) else None

    def check_again(self, headers: Headers) -> None:
        """Check the key of an admitted request once more, because its body may have taken long to arrive.

        Raises:
            AccessError: the key was revoked or has expired meanwhile, or cannot be checked now.
        """
        if self.ring is not None:
            self.ring.caller_of(_authorization(headers))

    def wrote(self, caller: Caller, request: str, *, keys: int, products: int) -> None:
        """Take note of a write: what it used of its client's quotas, and who sent it."""
        if caller is not ANYBODY:
            now = self._clock()
            caller.client.keys.charge(keys, now)
            caller.client.products.charge(products, now)
            self._writes.info("key %s of client %s wrote: %r", caller.key_id, caller.name, request[:200])

    def may_operate(self, headers: Headers) -> bool:
        """Return whether the sender may see the details of an open endpoint."""
        try:
            self._authorized(headers, Scope.OPERATE)
        except AccessError:
            return False
        return True

    def _counted(self, refusal: Problem) -> Problem:
        self.refused[refusal.kind.slug] += 1
        return refusal

    def _authorized(self, headers: Headers, scope: Scope) -> Caller:
        if self.ring is None:
            return ANYBODY
        caller = self.ring.caller_of(_authorization(headers))
        if scope not in caller.scopes:
            raise Forbidden(scope, caller.key_id, caller.name)
        return caller

    def _check_origin(self, headers: Headers) -> None:
        named = {name: value for name, value in headers if name in (b"origin", b"host", b"sec-fetch-site")}
        origin = named.get(b"origin", b"").decode("latin-1")
        if origin in self.cors and origin:
            return
        _, _, authority = origin.partition("://")
        is_foreign = origin and authority.lower() != named.get(b"host", b"").decode("latin-1").lower()
        if is_foreign or named.get(b"sec-fetch-site") == b"cross-site":
            raise self._counted(Problem("cross-site", _CROSS_SITE))


def _cost(access: Access, headers: Headers) -> int:
    refresh = any(name == b"cache-control" and b"no-cache" in value.lower() for name, value in headers)
    return max(access.cost, REFRESH_COST) if refresh else access.cost


def _authorization(headers: Headers) -> list[bytes]:
    return [value for name, value in headers if name == b"authorization"]


def _is_own(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


_HOST_FAULT = (
    "A request needs exactly one Host header, with a name or an address and perhaps a port. Nothing was read or changed."
    " Correct the header and send the request again."
)
_CROSS_SITE = (
    "The request comes from a web page of another site, which may not change anything here. Nothing was changed. If the page is"
    " yours, the operator can name its origin in LARDER_CORS_ORIGINS."
)


def _host_not_allowed(name: str) -> str:
    return (
        f"The service is not reached under the name {name}. Nothing was read or changed. Use the name that the operator has"
        " published. The operator adds names to LARDER_ALLOWED_HOSTS."
    )

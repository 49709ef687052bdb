"""The key ring: one process's copy of the valid keys, by which it checks every request.

The copy is renewed every second. It counts for ``COPY_LIFE_S`` from the moment when the query that it came from was sent; after
that no key can be checked until the next renewal. A key that is revoked is therefore refused everywhere ``COPY_LIFE_S`` after
the commit at the latest, whatever a process could or could not reach. ``larder keys revoke`` waits for that moment.

A header that was checked once is found again with one look-up. The ring forgets these headers whenever a key changes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.access.errors import KeysUnavailable, Unauthenticated
from app.access.keys import Scope, StoredKey, digest_of
from app.access.rates import Client, Limits

COPY_LIFE_S = 2.0
"""How long a copy of the keys counts. It is the same in every process, because ``revoke`` waits for it."""
RENEWAL_S = 1.0
RETRY_S = 0.1
"""Pause after a renewal that failed."""
USE_EVERY_S = 10.0
"""Pause between two records of which keys were used."""
_SCHEME = b"bearer "
_LONGEST = 200
"""Longest header that may hold a key."""
_MOST_HEADERS = 10_000
"""Most headers that are remembered. A valid key can be sent in several spellings."""
log = logging.getLogger("larder.access")


@dataclass(frozen=True, slots=True)
class KeyList:
    """The valid keys at one moment; ``keys`` is ``None`` if they are those of the generation that the caller knows."""

    generation: str
    keys: Sequence[StoredKey] | None


class KeySource(Protocol):
    """Where keys are stored."""

    async def valid_keys(self, known: str) -> KeyList:
        """Return the valid keys, unless they are still those of the generation ``known``.

        Raises:
            Exception: they could not be read.
        """

    async def record_use(self, ids: Sequence[str]) -> None:
        """Record that these keys were used today."""


@dataclass(eq=False, slots=True)
class Caller:
    """The sender of a request: a key, its client, and what it may do."""

    client: Client
    key_id: str
    scopes: frozenset[Scope]
    expires_at: float = float("inf")
    """When the key expires, on the process's monotonic clock."""
    used: bool = False
    """Whether a request came with it since its use was recorded."""
    may_read: bool = field(init=False)
    """Whether the scopes contain ``products:read``. Looking it up takes too long for a hot read."""

    def __post_init__(self) -> None:
        self.may_read = Scope.PRODUCTS_READ in self.scopes

    @property
    def name(self) -> str:
        """The client's name; empty if the service is open."""
        return self.client.name


class _Copy:
    """The copy of one source's keys."""

    __slots__ = ("callers", "failing", "generation", "good_until", "rates", "source", "used_before")

    def __init__(self, source: KeySource) -> None:
        self.source = source
        self.callers: dict[bytes, Caller] = {}
        """The holders by the digest of their keys."""
        self.rates: dict[str, float] = {}
        self.used_before: set[str] = set()
        """Ids of keys that were used and have ended since."""
        self.generation = ""
        self.good_until = float("-inf")
        self.failing = False


class KeyRing:
    """The valid keys of one process. Keys may come from several sources, and each source has a copy with a life of its own.

    Args:
        sources: where keys are stored.
        limits: what a client may use; its rate, if none of its keys has one.
        clock: a monotonic clock.
    """

    def __init__(self, sources: Iterable[KeySource], *, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._copies = [_Copy(source) for source in sources]
        self._limits = limits
        self._clock = clock
        self.clients: dict[str, Client] = {}
        """Every client that has or had a key while this process ran."""
        self.known_headers: dict[bytes, tuple[Caller, _Copy]] = {}
        self._warned = False

    @property
    def readable(self) -> bool:
        """Whether the copy of every source is young enough to check keys with."""
        now = self._clock()
        return all(now < copy.good_until for copy in self._copies)

    def caller_of(self, authorization: Sequence[bytes]) -> Caller:
        """Return the sender of a request with these ``Authorization`` headers.

        Raises:
            Unauthenticated: there is no valid key among them.
            KeysUnavailable: the key may be valid, but cannot be checked now.
        """
        if not authorization:
            raise Unauthenticated("the request has no key", given=False)
        [header, *others] = authorization
        if others:
            raise Unauthenticated("the request has more than one Authorization header", given=True)
        now = self._clock()
        caller, copy = self.known_headers.get(header) or self._recognise(header, now)
        if now >= copy.good_until:
            raise KeysUnavailable("the keys could not be read for too long")
        if now >= caller.expires_at:
            raise Unauthenticated(f"key {caller.key_id} has expired", given=True)
        caller.used = True
        return caller

    def recognised(self, header: bytes, now: float) -> Caller | None:
        """Return the sender with this header if the header was checked before and its key is still valid."""
        known = self.known_headers.get(header)
        if known is None:
            return None
        caller, copy = known
        if now >= copy.good_until or now >= caller.expires_at:
            return None
        caller.used = True
        return caller

    def _recognise(self, header: bytes, now: float) -> tuple[Caller, _Copy]:
        if len(header) > _LONGEST or header[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("the Authorization header is not of the form: Bearer KEY", given=True)
        digest = digest_of(header[len(_SCHEME) :].strip(b" ").decode("latin-1"))
        if digest is None:
            raise Unauthenticated("what was sent is not a key: it is incomplete or mistyped", given=True)
        for copy in self._copies:
            if caller := copy.callers.get(digest):
                if len(self.known_headers) >= _MOST_HEADERS:
                    self.known_headers.clear()
                self.known_headers[header] = caller, copy
                return caller, copy
        if any(now >= copy.good_until for copy in self._copies):
            raise KeysUnavailable("the keys could not be read for too long")
        raise Unauthenticated("the key is unknown, revoked or expired", given=True)

    async def renew(self) -> bool:
        """Renew every copy once; return whether all could be read."""
        return all([await self._renewed(copy) for copy in self._copies])

    async def run(self) -> None:
        """Renew each copy until cancelled, and record which keys are used. A source that hangs delays its own copy only."""
        await asyncio.gather(*(self._keep(copy) for copy in self._copies))

    async def _keep(self, copy: _Copy) -> None:
        recorded_at = self._clock()
        try:
            while True:
                began = self._clock()
                pause_s = RENEWAL_S if await self._renewed(copy) else RETRY_S
                if began - recorded_at >= USE_EVERY_S:
                    recorded_at = began
                    await self._record_use(copy)
                await asyncio.sleep(max(RETRY_S, began + pause_s - self._clock()))
        finally:
            await self._record_use(copy)

    async def _renewed(self, copy: _Copy) -> bool:
        asked_at = self._clock()
        try:
            found = await copy.source.valid_keys(copy.generation)
            if found.keys is not None:
                self._replace(copy, found.keys, asked_at)
        except Exception as error:  # noqa: BLE001 - whatever failed, the copy expires by itself
            if not copy.failing:
                log.warning("the keys cannot be read (%s); requests with a key are refused from %.0f s on", error, COPY_LIFE_S)
            copy.failing = True
            return False
        if copy.failing:
            log.warning("the keys can be read again")
        copy.failing = False
        copy.generation = found.generation
        copy.good_until = asked_at + COPY_LIFE_S
        return True

    def _replace(self, copy: _Copy, keys: Sequence[StoredKey], asked_at: float) -> None:
        before = {caller.key_id: caller.used for caller in copy.callers.values()}
        copy.used_before |= {key_id for key_id, used in before.items() if used} - {key.id for key in keys}
        copy.callers = {
            key.digest: Caller(
                self._client(key.client),
                key.id,
                key.scopes,
                asked_at + key.expires_in_s,
                before.get(key.id, False),
            )
            for key in keys
        }
        copy.rates = {}
        for key in keys:
            rate = self._limits.rate_per_s if key.rate_per_s is None else key.rate_per_s
            copy.rates[key.client] = max(copy.rates.get(key.client, 0.0), rate)
        for name in copy.rates:
            self._client(name).set_rate(max(other.rates.get(name, 0.0) for other in self._copies))
        self.known_headers = {}
        if not self._warned and not any(each.callers for each in self._copies):
            log.warning(
                "there is no key yet, so every request is answered 401."
                " Make one: larder keys create --client NAME --scope products:read"
            )
            self._warned = True

    def _client(self, name: str) -> Client:
        if name not in self.clients:
            self.clients[name] = Client(name, self._limits)
        return self.clients[name]

    async def _record_use(self, copy: _Copy) -> None:
        used = {caller.key_id for caller in copy.callers.values() if caller.used} | copy.used_before
        copy.used_before = set()
        for caller in copy.callers.values():
            caller.used = False
        if used:
            try:
                await copy.source.record_use(sorted(used))
            except Exception as error:  # noqa: BLE001 - the record is a convenience
                log.warning("the use of keys could not be recorded: %s", error)

"""The slots in Redis: names of keys, scripts, and the store's ports on connections that are never silently replaced.

``wtc:{namespace}:{key}`` is a slot. ``wtc-fence:…``, ``wtc-watermark:…`` and ``wtc-auditor:…`` belong to the namespace and do
not match the slots' pattern, so a purge of slots cannot delete them. A fence is ``server|epoch``. A watermark is
``epoch:transaction id`` (20 digits), or ``epoch:`` as a mark.
"""

import hashlib
import random
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files

from typing_extensions import override

from .. import slot
from ..errors import StoreUnavailable
from ..history import hash_of
from ..inspection import SlotReader
from ..ports import (
    Absent,
    AuditStore,
    Begun,
    Outcome,
    Publication,
    Published,
    Reading,
    Repairs,
    Store,
    Value,
    Watermark,
)
from .connection import RedisCommand, RedisConnection, RedisLink
from .tls import RedisTls

SCRIPTS = {
    name: files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    for name in ("publish", "lease", "release", "begin", "verify", "trust")
}
_SHA = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}
XID_WIDTH = 20
_DELETES = "!"
"""Stands for a token that belongs to no lease: ``publish.lua`` then deletes where it would store."""
PURGE_PAGE = 1_000
_GLOB_SPECIAL = re.compile(r"([\\*?\[\]])")


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long slots and leases live."""

    slot_ttl_s: int
    absent_ttl_s: int
    ttl_jitter_percent: int
    lease_ttl_ms: int


class Names:
    """The names of one namespace's keys in Redis; the namespace must not contain ``:``."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"wtc:{namespace}:"
        """The beginning of every slot's name."""
        self.fence = f"wtc-fence:{namespace}"
        self.watermark = f"wtc-watermark:{namespace}"
        self.claim = f"wtc-auditor:{namespace}"
        """The audit's claim. Earlier releases use another name, so a forgotten instance of theirs cannot take this claim."""


_SYSTEM_TLS = RedisTls()


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Where Redis is and how long to wait for it."""

    url: str
    timeout_ms: int
    connect_timeout_ms: int
    retry_ms: int
    tls: RedisTls = _SYSTEM_TLS

    def link(self) -> RedisLink:
        """Return a new link that is not connected yet."""
        return RedisLink(
            self.url,
            tls=self.tls,
            timeout_ms=self.timeout_ms,
            connect_timeout_ms=self.connect_timeout_ms,
            retry_ms=self.retry_ms,
            scripts=tuple(SCRIPTS.values()),
        )


class RedisStore(Store):
    """The ``Store`` port. Reads, leases and publishes have a connection each, so that none of them waits for another.

    Each method is one round trip: ``MGET``, ``DEL`` or a script.
    """

    def __init__(
        self, options: RedisOptions, namespace: str, lifetimes: Lifetimes, chance: random.Random | None = None
    ) -> None:
        self._names = Names(namespace)
        self._lifetimes = lifetimes
        self._chance = chance or random.Random()
        self._reads = options.link()
        self._leases = options.link()
        self._publishes = options.link()

    @property
    def up(self) -> bool:
        """Whether there is a connection for reads."""
        return self._reads.up

    @property
    def failures(self) -> int:
        """Number of connections that failed since the start."""
        return self._reads.failures + self._leases.failures + self._publishes.failures

    async def start(self) -> None:
        """Connect; if that fails, keep trying in the background."""
        for link in (self._reads, self._leases, self._publishes):
            await link.start()

    async def close(self) -> None:
        """Close all connections."""
        for link in (self._reads, self._leases, self._publishes):
            await link.close()

    @override
    async def read(self, keys: Sequence[str]) -> Reading:
        prefix = self._names.prefix
        answered, [found] = await self._reads.call(("MGET", self._names.fence, *[prefix + key for key in keys]))
        fence: bytes | None = found[0]
        epoch = ""
        if fence is not None:
            server, _, fenced = fence.decode("ascii", "replace").rpartition("|")
            if server == answered:
                epoch = fenced
        return Reading(epoch, found[1:])

    @override
    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        tokens = {key: secrets.token_hex(8) for key in keys}
        slots = [self._names.prefix + key for key in tokens]
        _, [taken] = await self._leases.call(_script("lease", slots, [self._lifetimes.lease_ttl_ms, *tokens.values()]))
        return {key: token for (key, token), done in zip(tokens.items(), taken, strict=True) if done}

    @override
    async def publish(self, publications: Sequence[Publication]) -> Published:
        slots = [self._names.prefix + publication.state.key for publication in publications]
        names = [self._names.watermark, self._names.fence, *slots]
        arguments: list[str | bytes | int] = []
        for publication in publications:
            state = publication.state
            if publication.deletes:
                arguments += (slot.encode(Absent(state.key, state.epoch, state.version)), _DELETES, 0)
            else:
                arguments += (slot.encode(state), publication.token, self._life_ms(publication))
        _, [reply] = await self._publishes.call_naming_server(lambda server: [_script("publish", names, [server, *arguments])])
        return Published(tuple(Outcome(number) for number in reply[1:]), proven=reply[0] == 1)

    @override
    async def release(self, tokens: dict[str, str]) -> None:
        slots = [self._names.prefix + key for key in tokens]
        await self._leases.call(_script("release", slots, [slot.LEASE + token.encode() for token in tokens.values()]))

    @override
    async def drop(self, key: str) -> None:
        await self._leases.call(("DEL", self._names.prefix + key))

    def _life_ms(self, publication: Publication) -> int:
        state = publication.state
        never_there = not isinstance(state, Value) and state.version == 0
        whole_ms = (self._lifetimes.absent_ttl_s if never_there else self._lifetimes.slot_ttl_s) * 1000
        # The lifetime is shortened at random, so that slots filled together do not expire together.
        return int(whole_ms * (1 - self._chance.random() * self._lifetimes.ttl_jitter_percent / 100))


class RedisAuditStores:
    """Opens the ``AuditStore`` port: a cycle has one connection, which is kept between cycles while it is good."""

    def __init__(self, options: RedisOptions, namespace: str) -> None:
        self._link = options.link()
        self._names = Names(namespace)

    async def start(self) -> None:
        """Connect; if that fails, keep trying in the background."""
        await self._link.start()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["RedisAuditStore"]:
        """Open the store for one cycle; an error that leaves the context gives the cycle's claim back.

        Raises ``StoreUnavailable`` when no connection is ready.
        """
        store = RedisAuditStore(self._link.connection(), self._names)
        try:
            yield store
        except Exception:
            await store.give_claim_back()
            raise


class RedisAuditStore(AuditStore, SlotReader):
    """The ports ``AuditStore`` and ``SlotReader`` on one connection. It cannot be used after the connection is lost."""

    def __init__(self, connection: RedisConnection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._token = secrets.token_hex(8)
        self._claimed = False

    @override
    async def begin(self, claim_ms: int) -> Begun:
        keys = [self._names.claim, self._names.watermark]
        [[claimed, seconds, microseconds, watermark]] = await self._connection.call(
            _script("begin", keys, [self._token, claim_ms])
        )
        self._claimed = bool(claimed)
        time_ms = int(seconds) * 1000 + int(microseconds) // 1000
        return Begun(time_ms, self._connection.server, _parse_watermark(watermark), self._claimed)

    async def give_claim_back(self) -> None:
        """Release the claim, so that another instance can audit this interval, if this cycle has it and is connected."""
        if self._claimed and self._connection.alive:
            self._claimed = False
            with suppress(StoreUnavailable):  # the claim expires by itself
                await self._connection.call(_script("release", [self._names.claim], [self._token]))

    @override
    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        slots = [self._names.prefix + key for key, _ in rows]
        versions = [f"{version:0{slot.VERSION_WIDTH}d}" for _, version in rows]
        [[older, other_epoch, leases]] = await self._connection.call(_script("verify", slots, [hash_of(epoch), *versions]))
        return Repairs(len(rows), older, other_epoch, leases)

    @override
    async def purge(self, claim_ms: int) -> int:
        deleted = 0
        async for found in self._scan():
            await self._connection.call(("SET", self._names.claim, self._token, "PX", claim_ms))
            if found:
                [count] = await self._connection.call(("UNLINK", *found))
                deleted += count
        return deleted

    @override
    async def distrust(self, mark: Watermark | None) -> None:
        # The mark is set first: with it, no cycle of the old epoch can set the fence again after it is deleted.
        replace: RedisCommand = (
            ("SET", self._names.watermark, _format_watermark(mark)) if mark else ("DEL", self._names.watermark)
        )
        await self._connection.call(replace, ("DEL", self._names.fence))

    @override
    async def keys(self) -> AsyncIterator[Sequence[str]]:
        start = len(self._names.prefix)
        async for found in self._scan():
            yield [name.decode("utf-8", "replace")[start:] for name in found]

    @override
    async def raw(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        [found] = await self._connection.call(("MGET", *[self._names.prefix + key for key in keys]))
        return list(found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Empty slots, which is always safe. Idempotent."""
        await self._connection.call(("UNLINK", *[self._names.prefix + key for key in keys]))

    async def _scan(self) -> AsyncIterator[list[bytes]]:
        pattern = _GLOB_SPECIAL.sub(r"\\\1", self._names.prefix) + "*"
        cursor = b"0"
        while True:
            [[cursor, found]] = await self._connection.call(("SCAN", cursor, "MATCH", pattern, "COUNT", PURGE_PAGE))
            yield found
            if cursor == b"0":
                return

    @override
    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        seen = _format_watermark(begun.watermark) if begun.watermark else ""
        arguments: list[str | bytes | int] = [
            seen,
            proven.epoch,
            f"{proven.xid or 0:0{XID_WIDTH}d}",
            begun.server,
            begun.time_ms + fence_ttl_ms,
        ]
        [reply] = await self._connection.call(_script("trust", [self._names.watermark, self._names.fence], arguments))
        return bool(reply)


def _script(name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> RedisCommand:
    return ("EVALSHA", _SHA[name], len(keys), *keys, *arguments)


def _format_watermark(watermark: Watermark) -> str:
    return f"{watermark.epoch}:" if watermark.xid is None else f"{watermark.epoch}:{watermark.xid:0{XID_WIDTH}d}"


def _parse_watermark(raw: bytes) -> Watermark | None:
    if not raw:
        return None
    epoch, found, xid = raw.decode("ascii", "replace").rpartition(":")
    if not found or not (xid == "" or xid.isdecimal()):
        return Watermark("", None)  # not a watermark of Larder, so it has no epoch: the next cycle replaces it
    return Watermark(epoch, int(xid) if xid else None)

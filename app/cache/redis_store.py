"""The slots in Redis: keys, scripts, and the store ports over connections that are never silently replaced.

Keys: ``wtc:{namespace}:{key}`` is a slot; ``wtc-fence:…``, ``wtc-watermark:…`` and ``wtc-auditor:…`` belong to the namespace
and lie outside the slots' pattern, so that a purge of slots cannot take them.

A fence is ``server|epoch``. A watermark is ``epoch:transaction id`` (20 digits), or ``epoch:`` as a mark.
"""

import hashlib
import random
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files

from app.cache import slot
from app.cache.errors import StoreUnavailable
from app.cache.history import hash_of
from app.cache.ports import Begun, Outcome, Publication, Published, Reading, Repairs, Value, Watermark
from app.cache.redis_connection import RedisCommand, RedisConnection, RedisLink

SCRIPTS = {
    name: files("app.cache").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    for name in ("publish", "lease", "release", "begin", "verify", "trust")
}
_SHA = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}
XID_WIDTH = 20
PURGE_PAGE = 1_000
_GLOB_SPECIAL = re.compile(r"([\\*?\[\]])")


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is stored lives."""

    slot_ttl_s: int = 3_600
    absent_ttl_s: int = 30
    ttl_jitter_percent: int = 10
    lease_ttl_ms: int = 3_000


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one namespace, which must not contain ``:``."""

    namespace: str

    @property
    def prefix(self) -> str:
        """What every slot's key begins with."""
        return f"wtc:{self.namespace}:"

    @property
    def fence(self) -> str:
        """The key of the fence."""
        return f"wtc-fence:{self.namespace}"

    @property
    def watermark(self) -> str:
        """The key of the watermark."""
        return f"wtc-watermark:{self.namespace}"

    @property
    def claim(self) -> str:
        """The key of the audit's claim.

        Earlier releases use another one: an instance of theirs that was forgotten cannot take the claim from this release's.
        """
        return f"wtc-auditor:{self.namespace}"


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Where Redis is and how long to wait for it."""

    url: str
    timeout_ms: int = 250
    connect_timeout_ms: int = 500
    retry_ms: int = 250

    def link(self) -> RedisLink:
        """A link of its own, not yet connected."""
        return RedisLink(
            self.url,
            timeout_ms=self.timeout_ms,
            connect_timeout_ms=self.connect_timeout_ms,
            retry_ms=self.retry_ms,
            scripts=tuple(SCRIPTS.values()),
        )


class RedisStore:
    """The ``Store`` port. Reads, leases and publishes have a connection each, so that none waits behind another."""

    def __init__(self, options: RedisOptions, namespace: str, lives: Lifetimes, chance: random.Random | None = None) -> None:
        self._names = Names(namespace)
        self._lives = lives
        self._chance = chance or random.Random()
        self._reads = options.link()
        self._leases = options.link()
        self._publishes = options.link()

    @property
    def up(self) -> bool:
        """Whether reads have a connection."""
        return self._reads.up

    @property
    def failures(self) -> int:
        """Connections that failed since the start."""
        return self._reads.failures + self._leases.failures + self._publishes.failures

    async def start(self) -> None:
        """Connect, or go on trying in the background."""
        for link in (self._reads, self._leases, self._publishes):
            await link.start()

    async def close(self) -> None:
        """Close all connections."""
        for link in (self._reads, self._leases, self._publishes):
            await link.close()

    async def read(self, keys: Sequence[str]) -> Reading:
        """See ``Store.read``: one MGET."""
        prefix = self._names.prefix
        connection = self._reads.connection()
        [found] = await self._reads.call(("MGET", self._names.fence, *[prefix + key for key in keys]))
        fence: bytes | None = found[0]
        epoch = ""
        if fence is not None:
            server, _, fenced = fence.decode("ascii", "replace").rpartition("|")
            if server == connection.server:
                epoch = fenced
        return Reading(epoch, found[1:])

    async def lease(self, keys: Sequence[str]) -> dict[str, str]:
        """See ``Store.lease``: one script."""
        tokens = {key: secrets.token_hex(8) for key in keys}
        slots = [self._names.prefix + key for key in tokens]
        [taken] = await self._leases.call(_script("lease", slots, [self._lives.lease_ttl_ms, *tokens.values()]))
        return {key: token for (key, token), done in zip(tokens.items(), taken, strict=True) if done}

    async def publish(self, publications: Sequence[Publication]) -> Published:
        """See ``Store.publish``: one script."""
        connection = self._publishes.connection()
        slots = [self._names.prefix + publication.state.key for publication in publications]
        arguments: list[str | bytes | int] = [connection.server]
        for publication in publications:
            arguments += (slot.encode(publication.state), publication.token, self._life_ms(publication))
        [reply] = await self._publishes.call(_script("publish", [self._names.watermark, self._names.fence, *slots], arguments))
        return Published(tuple(Outcome(number) for number in reply[1:]), proven=reply[0] == 1)

    async def release(self, tokens: dict[str, str]) -> None:
        """See ``Store.release``: one script."""
        slots = [self._names.prefix + key for key in tokens]
        await self._leases.call(_script("release", slots, [slot.LEASE + token.encode() for token in tokens.values()]))

    async def drop(self, key: str) -> None:
        """See ``Store.drop``: one DEL."""
        await self._leases.call(("DEL", self._names.prefix + key))

    def _life_ms(self, publication: Publication) -> int:
        state = publication.state
        never_there = not isinstance(state, Value) and state.version == 0
        whole_ms = (self._lives.absent_ttl_s if never_there else self._lives.slot_ttl_s) * 1000
        # Shortened by chance, so that what was filled together does not expire together.
        return int(whole_ms * (1 - self._chance.random() * self._lives.ttl_jitter_percent / 100))


class RedisAuditStores:
    """Opens the ``AuditStore`` port: one connection for each cycle, kept between cycles while it is good."""

    def __init__(self, options: RedisOptions, namespace: str) -> None:
        self._link = options.link()
        self._names = Names(namespace)

    async def start(self) -> None:
        """Connect, or go on trying in the background."""
        await self._link.start()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["RedisAuditStore"]:
        """A cycle's view of the store; an error that leaves it gives the cycle's claim back.

        Raises ``StoreUnavailable`` when no connection is ready.
        """
        store = RedisAuditStore(self._link.connection(), self._names)
        try:
            yield store
        except Exception:
            await store.give_claim_back()
            raise


class RedisAuditStore:
    """The ``AuditStore`` port over one connection, dead for good with it."""

    def __init__(self, connection: RedisConnection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._token = secrets.token_hex(8)
        self._claimed = False

    async def begin(self, claim_ms: int) -> Begun:
        """See ``AuditStore.begin``: one script."""
        keys = [self._names.claim, self._names.watermark]
        [[claimed, seconds, microseconds, watermark]] = await self._connection.call(
            _script("begin", keys, [self._token, claim_ms])
        )
        self._claimed = bool(claimed)
        time_ms = int(seconds) * 1000 + int(microseconds) // 1000
        return Begun(time_ms, self._connection.server, _parse_watermark(watermark), self._claimed)

    async def give_claim_back(self) -> None:
        """Let another instance audit this interval, if the connection is good and the claim is still this cycle's."""
        if self._claimed and self._connection.alive:
            self._claimed = False
            with suppress(StoreUnavailable):  # the claim expires by itself
                await self._connection.call(_script("release", [self._names.claim], [self._token]))

    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        """See ``AuditStore.verify``."""
        slots = [self._names.prefix + key for key, _ in rows]
        versions = [f"{version:0{slot.VERSION_WIDTH}d}" for _, version in rows]
        [[older, other_epoch, leases]] = await self._connection.call(_script("verify", slots, [hash_of(epoch), *versions]))
        return Repairs(len(rows), older, other_epoch, leases)

    async def purge(self, claim_ms: int) -> int:
        """See ``AuditStore.purge``: SCAN and UNLINK."""
        deleted = 0
        async for found in self._scan():
            await self._connection.call(("SET", self._names.claim, self._token, "PX", claim_ms))
            if found:
                [count] = await self._connection.call(("UNLINK", *found))
                deleted += count
        return deleted

    async def distrust(self, mark: Watermark | None) -> None:
        """See ``AuditStore.distrust``: two commands, the mark first.

        From then on no cycle of the old epoch can give trust again; the fence that one set until then goes with the second.
        """
        replace: RedisCommand = (
            ("SET", self._names.watermark, _format_watermark(mark)) if mark else ("DEL", self._names.watermark)
        )
        await self._connection.call(replace, ("DEL", self._names.fence))

    async def keys(self) -> AsyncIterator[Sequence[str]]:
        """See ``SlotReader.keys``."""
        start = len(self._names.prefix)
        async for found in self._scan():
            yield [name.decode("utf-8", "replace")[start:] for name in found]

    async def raw(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See ``SlotReader.raw``."""
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

    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        """See ``AuditStore.trust``."""
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
        return Watermark("", None)  # a stranger's text, of no epoch: the next cycle replaces it
    return Watermark(epoch, int(xid) if xid else None)

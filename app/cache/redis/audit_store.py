"""The slots in Redis during an audit: the ports of one namespace, and those of several on one connection."""

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from typing_extensions import override

from .. import slot
from ..errors import StoreUnavailable
from ..history import hash_of
from ..inspection import SlotReader
from ..ports import AuditStore, Begun, Repairs, SharedAuditStore, TrustRequest, VerifyRequest, Watermark
from .connection import RedisCommand, RedisConnection, RedisLink
from .store import Names, script

XID_WIDTH = 20
SCAN_PAGE = 1_000
_WATERMARK = re.compile(r"([^|]*)\|([^:|]+):(?:([0-9]{20}):(.{16}))?")
_GLOB_SPECIAL = re.compile(r"([\\*?\[\]])")


class RedisAuditStores:
    """Opens the ``AuditStore`` port of a namespace. A cycle has one connection, which is kept while it is good."""

    def __init__(self, link: RedisLink, namespace: str) -> None:
        self._link = link
        self._names = Names(namespace)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["RedisAuditStore"]:
        """Open the store for one cycle; an error that leaves the context gives the cycle's claim back.

        Raises ``StoreUnavailable`` when no connection is ready.
        """
        await self._link.start_once()
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
        [reply] = await self._connection.call(begin_command(self._names, self._token, claim_ms))
        begun = begun_from(reply, self._connection.server)
        self._claimed = begun.claimed
        return begun

    async def give_claim_back(self) -> None:
        """Release the claim, so that another instance can audit this interval, if this cycle has it and is connected."""
        if self._claimed and self._connection.alive:
            self._claimed = False
            with suppress(StoreUnavailable):  # the claim expires by itself
                await self._connection.call(script("release", [self._names.claim], [self._token]))

    @override
    async def verify(self, epoch: str, rows: Sequence[tuple[str, int]]) -> Repairs:
        [counts] = await self._connection.call(verify_command(self._names, epoch, rows))
        return Repairs(len(rows), *counts)

    async def start_clean(self) -> None:
        """Delete watermark and fence, so that the next audit begins a new incarnation, which makes every slot void."""
        await self.distrust(None)

    async def unlink_all(self) -> int:
        """Delete every slot, and so free its memory; return how many there were. Idempotent, always safe."""
        deleted = 0
        async for found in scan(self._connection, glob_of(self._names.prefix) + "*"):
            if found:
                [count] = await self._connection.call(("UNLINK", *found))
                deleted += count
        return deleted

    @override
    async def distrust(self, mark: Watermark | None) -> None:
        await self._connection.call(*distrust_commands(self._names, mark))

    @override
    async def keys(self) -> AsyncIterator[Sequence[str]]:
        start = len(self._names.prefix)
        async for found in scan(self._connection, glob_of(self._names.prefix) + "*"):
            yield [name.decode("utf-8", "replace")[start:] for name in found]

    @override
    async def raw(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        [found] = await self._connection.call(("MGET", self._names.watermark, *[self._names.prefix + key for key in keys]))
        return in_incarnation(found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Empty slots, which is always safe. Idempotent."""
        await self._connection.call(("UNLINK", *[self._names.prefix + key for key in keys]))

    @override
    async def trust(self, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> bool:
        [reply] = await self._connection.call(trust_command(self._names, begun, proven, fence_ttl_ms))
        return bool(reply)


class RedisSharedAudit(SharedAuditStore):
    """The ``SharedAuditStore`` port on one connection: a script for each namespace, all in one packet."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._token = secrets.token_hex(8)
        self._claimed: set[str] = set()

    @override
    async def begin(self, requests: Sequence[tuple[str, int]]) -> Sequence[Begun]:
        replies = await self._connection.call(
            *(begin_command(Names(name), self._token, claim_ms) for name, claim_ms in requests)
        )
        begun = [begun_from(reply, self._connection.server) for reply in replies]
        self._claimed.update(name for (name, _), one in zip(requests, begun, strict=True) if one.claimed)
        return begun

    @override
    async def verify(self, requests: Sequence[VerifyRequest]) -> Sequence[Repairs]:
        replies = await self._connection.call(*(verify_command(Names(name), epoch, rows) for name, epoch, rows in requests))
        return [Repairs(len(rows), *counts) for (_, _, rows), counts in zip(requests, replies, strict=True)]

    @override
    async def distrust(self, namespace: str, mark: Watermark | None) -> None:
        await self._connection.call(*distrust_commands(Names(namespace), mark))

    @override
    async def trust(self, requests: Sequence[TrustRequest]) -> Sequence[bool]:
        replies = await self._connection.call(
            *(trust_command(Names(name), begun, proven, ttl_ms) for name, begun, proven, ttl_ms in requests)
        )
        return [bool(reply) for reply in replies]

    @override
    async def give_claim_back(self, namespace: str) -> None:
        if namespace in self._claimed and self._connection.alive:
            self._claimed.discard(namespace)
            with suppress(StoreUnavailable):  # the claim expires by itself
                await self._connection.call(script("release", [Names(namespace).claim], [self._token]))


def glob_of(text: str) -> str:
    """Return the pattern that only this text matches."""
    return _GLOB_SPECIAL.sub(r"\\\1", text)


async def scan(connection: RedisConnection, pattern: str) -> AsyncIterator[list[bytes]]:
    """Yield the names of all keys of a server that match a pattern, in pages."""
    cursor = b"0"
    while True:
        [[cursor, found]] = await connection.call(("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_PAGE))
        yield found
        if cursor == b"0":
            return


def in_incarnation(found: Sequence[bytes | None]) -> list[bytes | None]:
    """Return the slots that were read together with their watermark, those of another incarnation as empty."""
    watermark = _parse_watermark(found[0] or b"")
    incarnation = watermark.incarnation if watermark else ""
    return [raw if raw is not None and slot.incarnation_in(raw) == incarnation else None for raw in found[1:]]


def begin_command(names: Names, token: str, claim_ms: int) -> RedisCommand:
    """Return the command of a cycle's first step."""
    return script("begin", [names.claim, names.watermark], [token, claim_ms])


def begun_from(reply: Sequence[Any], server: str) -> Begun:
    """Return what the first step found."""
    claimed, seconds, microseconds, raw, counts = reply
    watermark = _parse_watermark(raw)
    known = bool(counts) and watermark is not None and watermark.xid is not None
    return Begun(int(seconds) * 1000 + int(microseconds) // 1000, server, watermark, bool(claimed), known)


def verify_command(names: Names, epoch: str, rows: Sequence[tuple[str, int]]) -> RedisCommand:
    """Return the command that compares rows with their slots."""
    versions = [f"{version:0{slot.VERSION_WIDTH}d}" for _, version in rows]
    return script("verify", [names.prefix + key for key, _ in rows], [hash_of(epoch), *versions])


def distrust_commands(names: Names, mark: Watermark | None) -> Sequence[RedisCommand]:
    """Return the commands that take the trust away."""
    # The mark is set first: with it, no cycle of the old epoch can set the fence again after it is deleted.
    replace: RedisCommand = ("SET", names.watermark, _format_watermark(mark)) if mark else ("DEL", names.watermark)
    return replace, ("DEL", names.fence)


def trust_command(names: Names, begun: Begun, proven: Watermark, fence_ttl_ms: int) -> RedisCommand:
    """Return the command that sets watermark and fence."""
    old = begun.watermark
    arguments: list[str | bytes | int] = [
        _format_watermark(old) if old else "",
        proven.epoch,
        f"{proven.xid or 0:0{XID_WIDTH}d}",
        old.incarnation if old and begun.counts else secrets.token_hex(slot.INCARNATION_WIDTH // 2),
        begun.server,
        begun.time_ms + fence_ttl_ms,
    ]
    return script("trust", [names.watermark, names.fence], arguments)


def _format_watermark(watermark: Watermark) -> str:
    start = f"{watermark.server}|{watermark.epoch}:"
    return start if watermark.xid is None else f"{start}{watermark.xid:0{XID_WIDTH}d}:{watermark.incarnation}"


def _parse_watermark(raw: bytes) -> Watermark | None:
    if not raw:
        return None
    found = _WATERMARK.fullmatch(raw.decode("ascii", "replace"))
    if not found:
        return Watermark("", None)  # not a watermark of Larder, so it has no epoch: the next cycle replaces it
    server, epoch, xid, incarnation = found.groups()
    if xid:
        return Watermark(epoch, int(xid), incarnation, server)
    return Watermark("" if server else epoch, None)

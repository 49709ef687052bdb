"""Copies of slots in this process, which Redis takes back before it answers the next command of the connection that read them.

The connection *tracks* what it reads (``CLIENT TRACKING``, RESP3, default mode). Redis remembers the name of every key that
such a connection has read. When the key is changed, evicted or removed, in whatever way, Redis writes an invalidation into the
same stream as the replies. So a reply comes after the invalidations of everything that Redis did before it. A
read whose slots are all here sends the fence and the identity only, and uses the copies *after* that reply: each copy is then
what the slot held at the moment when Redis read the fence, as if ``MGET`` had read it.

- The copies belong to one connection. With its end they are gone, because Redis reports no changes from then on.
- The invalidation has to come by the connection that reads. By another one, or in BCAST mode, it may come after the reply.
- Own writes are reported like those of others, also those of this connection.
- A slot whose TTL has ended stays here until Redis removes it. R1 does not depend on the TTL: whoever stores, leases or audits
  removes it first, and Redis reports that.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from .. import slot

_log = logging.getLogger(__name__)
_MAJOR = re.compile(rb"\nredis_version:(\d+)")
_FIRST = 7
"""The first Redis that never writes an invalidation into the middle of a reply. Every Valkey says that it is Redis 7."""

_OVERHEAD_BYTES = 250
"""Bytes that a copy takes beside its slot: its name, and its place in the table."""
_KEPT = (slot.VALUE, slot.TOMBSTONE)
TAKEN_BACK = object()
"""What the driver returns in place of a reply when it has read an invalidation, if it is asked to."""


class NearSlots:
    """The copies of one connection, up to a number of bytes. The oldest are removed first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._copies: OrderedDict[str, bytes] = OrderedDict()
        self.invalidations = 0
        """Number of messages about changes that have come."""

    def others(self, names: Sequence[str]) -> list[str]:
        """Return the names of slots of which there is no copy."""
        copies = self._copies
        return [name for name in names if name not in copies]

    def join(
        self, names: Sequence[str], others: Sequence[str], slots: Sequence[bytes | None], since: int
    ) -> Sequence[bytes | None] | None:
        """Return all slots of a read: those of ``others``, which came in a reply, and the copies of the rest.

        It is called behind the reply. ``None`` means that a copy was taken back meanwhile, so the slots must be read again.
        ``since`` is ``invalidations`` as it was when the command was sent.
        """
        if len(others) == len(names):
            joined = slots
        else:
            copies, fresh = self._copies, dict(zip(others, slots, strict=True))
            try:
                joined = [fresh[name] if name in fresh else copies[name] for name in names]
            except KeyError:
                return None
        # Any message that came since may be about one of these slots, and older than the reply or newer.
        if others and self.invalidations == since:
            self._keep(others, slots)
        return joined

    async def invalidate(self, message: Sequence[Any]) -> object:
        """Remove what Redis takes back: the names in the message, or everything. The driver calls it before the next reply."""
        self.invalidations += 1
        names = message[1]
        if names is None:
            self._copies.clear()
            self._bytes = 0
            return TAKEN_BACK
        for name in names:
            copy = self._copies.pop(name.decode("utf-8", "surrogateescape"), None)
            if copy is not None:
                self._bytes -= len(copy) + _OVERHEAD_BYTES
        return TAKEN_BACK

    def end(self) -> None:
        """Drop the copies, and keep none from now on. A read that is under way reads anew what it would have found here."""
        self._limit_bytes = self._bytes = 0
        self._copies.clear()

    def _keep(self, names: Sequence[str], slots: Sequence[bytes | None]) -> None:
        copies = self._copies
        for name, raw in zip(names, slots, strict=True):
            if raw is None or raw[:1] not in _KEPT or name in copies:
                continue
            size = len(raw) + _OVERHEAD_BYTES
            if size > self._limit_bytes:
                continue
            copies[name] = raw
            self._bytes += size
            while self._bytes > self._limit_bytes:
                _, oldest = copies.popitem(last=False)
                self._bytes -= len(oldest) + _OVERHEAD_BYTES


async def track(raw: AbstractConnection, info: bytes, near_bytes: int) -> NearSlots | None:
    """Let a connection track what it reads, and return its copies; ``None`` if the server cannot, or does not allow it.

    ``info`` is the server's own description. Without ``near_bytes`` nothing is asked.
    """
    if not near_bytes:
        return None
    major = _MAJOR.search(info)
    if major is None or int(major[1]) < _FIRST:
        _log.warning("No copies of slots are kept: they need Redis %d or newer, or Valkey.", _FIRST)
        return None
    near = NearSlots(near_bytes)
    parser: Any = raw._parser  # noqa: SLF001 - redis-py has no other way
    parser.set_invalidation_push_handler(near.invalidate)
    for command in (("HELLO", 3), ("CLIENT", "TRACKING", "ON")):
        await raw.send_command(*command)
        try:
            await raw.read_response()
        except ResponseError as error:
            _log.warning(
                "No copies of slots are kept, because Redis refuses %s (%s). Allow it, or set near_bytes to 0.",
                command[0],
                error,
            )
            return None
    raw.protocol = 3  # which it would know if it had sent HELLO itself: then its reader can be asked for each message
    return near

"""Reads of slots by a link that keeps copies of them (``near_slots``)."""

from collections.abc import Sequence
from typing import cast

from .connection import RedisLink
from .near_slots import NearSlots
from .waiting_calls import RedisCommand


async def read_slots(link: RedisLink, command: RedisCommand) -> tuple[str, Sequence[bytes | None]]:
    """Send an ``MGET`` of the fence and slots; return the server that answered, and the reply.

    The slots of which there are copies are left out of the command, and put into the reply behind it. If a copy was taken back
    meanwhile, everything is read in a second round trip.

    Raises:
        StoreUnavailable: see ``RedisLink.call``.
    """
    if not link.near_bytes:
        answered, [reply] = await link.call(command)
        return answered, reply
    read = _Read(link, cast("Sequence[str]", command))
    found = await read.run()
    while found is None:  # at most once, because then no copy is used
        found = await read.run(anew=True)
    return found


class _Read:
    """One read. Which connection gets its command, and what that connection has copies of, is known when it is sent."""

    def __init__(self, link: RedisLink, command: Sequence[str]) -> None:
        self._link = link
        self._head, self._names = command[:2], command[2:]
        self._near: NearSlots | None = None
        self._others = self._names
        self._since = 0
        self._anew = False

    async def run(self, *, anew: bool = False) -> tuple[str, Sequence[bytes | None]] | None:
        """Read, without copies if ``anew``; return ``None`` if a copy was taken back."""
        self._anew = anew
        answered, [[fence, *slots]] = await self._link.call_naming_server(self._commands)
        if self._near is None:
            return answered, [fence, *slots]
        joined = self._near.join(self._names, self._others, slots, self._since)
        if joined is None:
            return None
        self._link.near_slots += len(self._names) - len(self._others)
        return answered, [fence, *joined]

    def _commands(self, _: str) -> Sequence[RedisCommand]:
        self._near, self._others = self._link.connection().near, self._names  # the one that gets this command
        if self._near is not None:
            self._since = self._near.invalidations
            if not self._anew:
                self._others = self._near.others(self._names)
        return [(*self._head, *self._others)]

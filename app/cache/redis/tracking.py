"""The start of a connection that tracks what it reads (``near_slots``)."""

import logging
import re

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from .near_slots import NearSlots

_log = logging.getLogger(__name__)
_MAJOR = re.compile(rb"\nredis_version:(\d+)")
_FIRST = 7
"""Earlier releases of Redis may write an invalidation into the middle of a reply. Every Valkey says that it is Redis 7."""


async def track(raw: AbstractConnection, info: bytes, near_bytes: int) -> NearSlots | None:
    """Let a connection track what it reads, and return its copies; ``None`` if the server cannot, or does not allow it.

    ``info`` is the server's own description.
    """
    major = _MAJOR.search(info)
    if major is None or int(major[1]) < _FIRST:
        _log.warning("No copies of slots are kept: they need Redis %d or newer, or Valkey.", _FIRST)
        return None
    near = NearSlots(near_bytes)
    raw._parser.set_invalidation_push_handler(near.invalidate)  # noqa: SLF001 - redis-py has no other way
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
    return near

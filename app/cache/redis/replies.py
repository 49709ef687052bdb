"""The replies on one connection, in order.

redis-py reads each reply by itself, through several coroutines, which takes longer than to parse it. A round trip of many
commands has many replies, and those that came in one piece with the first are in the parser already: they are taken from there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from hiredis import PushNotification, Reader
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio.connection import AbstractConnection

from .near_slots import TAKEN_BACK
from .refusals import REFUSALS, Refusal
from .waiting_calls import Reply


class Replies:
    """The reader of one connection's replies.

    Args:
        connection: an open connection that waits for no reply.
        refusals: whether a refusal by a node of a cluster is returned as a reply (``Refusal``) instead of raised.
    """

    def __init__(self, connection: AbstractConnection, *, refusals: bool) -> None:
        self._connection = connection
        self._refusal_errors = REFUSALS if refusals else ()
        reader: Any = getattr(getattr(connection, "_parser", None), "_reader", None)  # redis-py has no other way
        decoded = False
        self._take: Callable[[], Any] = partial(reader.gets, decoded) if isinstance(reader, Reader) else _no_parser
        """Takes a whole reply or message out of the parser, or ``NOT_ENOUGH_DATA`` if there is none."""

    async def read(self, number: int) -> list[Reply]:
        """Return the next replies. Raises an error of the driver, also for an error reply that is no refusal."""
        replies = [await self._next()]
        while len(replies) < number:
            reply = self._take()
            if reply is NOT_ENOUGH_DATA:
                reply = await self._next()
            elif isinstance(reply, PushNotification):  # nothing here asks for messages; the driver skips them, too
                continue
            elif isinstance(reply, Exception):
                reply = self._refusal(reply)
            replies.append(reply)
        return replies

    async def read_behind_invalidations(self, number: int) -> list[Reply]:
        """Return the next replies on a connection that keeps copies.

        One by one, because among them are messages by which copies are taken back. The driver itself would call itself for each
        of these.
        """
        replies: list[Reply] = []
        while len(replies) < number:
            reply = await self._connection.read_response(disable_decoding=True, push_request=True)
            if reply is not TAKEN_BACK:
                replies.append(reply)
        return replies

    async def _next(self) -> Reply:
        """Wait for the next reply."""
        try:
            return await self._connection.read_response(disable_decoding=True)
        except self._refusal_errors as error:
            return Refusal.of(error)

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, self._refusal_errors):
            return Refusal.of(error)
        raise error


def _no_parser() -> object:
    """Stand for a parser whose replies cannot be taken: the driver reads each of them."""
    return NOT_ENOUGH_DATA

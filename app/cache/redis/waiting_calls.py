"""Calls that wait for a connection to Redis and then share a round trip."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

RedisCommand = Sequence[str | bytes | int]
Reply = Any
Commands = Callable[[str], Sequence[RedisCommand]]
"""Commands, made when the server that gets them is known."""
Waiting = tuple[Commands, "asyncio.Future[tuple[str, list[Reply]]]"]
"""A call, and the future of the server that answered and of the replies."""


def refuse(waiting: Sequence[Waiting], error: Exception) -> None:
    """Give an error to every caller who still waits."""
    for _, future in waiting:
        if not future.done():
            future.set_exception(error)
            future.exception()  # marks it as retrieved, in case the caller no longer waits


def together(calls: Sequence[Commands], sizes: list[int], server: str) -> Sequence[RedisCommand]:
    """Return the commands of several calls in order, and append to ``sizes`` how many each call has."""
    packet: list[RedisCommand] = []
    for commands in calls:
        own = commands(server)
        sizes.append(len(own))
        packet += own
    return packet

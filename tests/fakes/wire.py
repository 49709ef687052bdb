"""How a call of a fake reaches its in-memory server: at once here, through faults and virtual time in the simulation."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

Reply = TypeVar("Reply")


class Disconnected(Exception):
    """There was no definite reply: the command may have been applied, may be applied later, or never."""


class Wire(Protocol):
    """One client's way to one kind of server."""

    @property
    def client(self) -> str:
        """The client process, as the server knows it."""

    async def call(self, name: str, apply: Callable[[], "Reply | asyncio.Future[Reply]"]) -> Reply:
        """Carry one command there, run ``apply`` on the server in one atomic step, and bring its result or error back.

        A future that ``apply`` returns is a server that answers later, e.g. once it has a lock. A caller that is
        cancelled or runs out of time does not stop a command under way.

        Raises:
            Disconnected: there was no definite reply within the deadline.
        """


class Direct:
    """A wire without delays or faults."""

    client = "test"

    async def call(self, name: str, apply: Callable[[], "Reply | asyncio.Future[Reply]"]) -> Reply:
        """Run ``apply`` now."""
        del name
        await asyncio.sleep(0)
        result = apply()
        return await result if isinstance(result, asyncio.Future) else result

"""A round trip of several statements that takes one system call to send."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.generators import send
from typing_extensions import override


class _WholePipeline(psycopg.AsyncPipeline):
    """A pipeline that sends nothing before its end.

    The driver's own pipeline sends each statement when it is executed. Every packet wakes the server process, which costs
    both sides more than the statement itself if it is a short one.
    """

    @override
    def _communicate_gen(self) -> PQGen[None]:
        return
        yield

    @override
    def _exit_gen(self) -> PQGen[None]:
        """Send everything with the Sync that ends it, and read all results."""
        self._enqueue_sync()
        while self.command_queue:
            self.command_queue.popleft()()
        yield from send(self.pgconn)
        yield from self._fetch_gen(flush=False)


@asynccontextmanager
async def pipeline(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """Collect the statements that are executed on a connection, and send them together at the end."""
    whole = connection._pipeline = _WholePipeline(connection)  # noqa: SLF001 - the driver has no argument for it
    try:
        async with whole:
            yield
    finally:
        connection._pipeline = None  # noqa: SLF001 - as above

"""A connection to PostgreSQL, with what is kept for as long as it is open.

Its socket stays registered with the event loop from one round trip to the next. The driver registers it for each wait and
removes it afterwards, which takes more system calls than the round trip itself.

When a socket is closed its number may soon be that of another one, so the registration must end first. ``libpq`` also closes
the socket by itself when it finds the connection broken: then the registration ends before the event loop goes on.
"""

import asyncio
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

import psycopg
from psycopg.abc import Dumper, PQGen, Transformer
from psycopg.adapt import Transformer as DriverTransformer
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg.waiting import Ready
from typing_extensions import override

from .lists import BYTES

Found = TypeVar("Found")

_READABLE = Ready.R
_BAD = ConnStatus.BAD
_STOP_S = 5.0
"""How long the server has to take a request to stop, and then to stop."""


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A connection to PostgreSQL that keeps its registration with the event loop, and what it has prepared and looked up."""

    _loop: asyncio.AbstractEventLoop | None = None
    """The event loop with which the socket is registered."""
    _socket = -1
    _steps: PQGen[Any] | None = None
    """What reads the answer that is waited for."""
    _answer: asyncio.Future[Any] | None = None

    @cached_property
    def prepared(self) -> dict[tuple[bytes, tuple[int, ...]], bytes]:
        """The names of the prepared statements, by text and types of the parameters."""
        return {}

    @cached_property
    def transformer(self) -> Transformer:
        """What writes parameters and reads results. It keeps every dumper and loader that it has looked up.

        It does not know the connection, whose parameters may change while it is kept: texts are UTF-8, moments are in UTC, and
        dates and intervals must come in PostgreSQL's default styles, which ``parameters.py`` sets for every session.
        """
        for kind, dumper in BYTES:
            self.adapters.register_dumper(kind, dumper)
        return DriverTransformer(self.adapters)

    def write_with(self, *dumpers: tuple[type[Any], type[Dumper]]) -> None:
        """Write values of these types with these dumpers from now on. Of several for a type and format the last one counts."""
        for kind, dumper in dumpers:
            self.adapters.register_dumper(kind, dumper)
        self.__dict__.pop("transformer", None)

    async def answer(self, steps: PQGen[Found]) -> Found:
        """Return what a generator of the driver returns that reads an answer of the server.

        If the wait is cancelled, the server is asked to stop, as the driver does. The connection must be closed then.

        Raises:
            psycopg.Error: the connection was lost or closed.
        """
        try:
            next(steps)
        except StopIteration as end:  # everything was there
            found: Found = end.value
            return found
        try:
            return await self._end_of(steps)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                with suppress(Exception):
                    await self.cancel_safe(timeout=_STOP_S)
                    async with asyncio.timeout(_STOP_S):
                        await self._end_of(steps)
            raise

    @override
    async def wait(self, gen: PQGen[Found], *args: Any, **options: Any) -> Found:
        self._unregister()  # the driver registers the socket itself, and would remove our registration
        return await super().wait(gen, *args, **options)

    def leave_pipeline(self) -> None:
        """Leave pipeline mode after a round trip. If its results were not all read, the connection must be closed."""
        if self.pgconn.status != _BAD:
            with suppress(psycopg.OperationalError):
                self.pgconn.exit_pipeline_mode()
        if self.pgconn.status == _BAD:
            self._unregister()

    @override
    async def close(self) -> None:
        self._let_go()
        await super().close()

    def finish(self) -> None:
        """Close the connection at once."""
        self._let_go()
        self.pgconn.finish()

    def _let_go(self) -> None:
        self._unregister()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(psycopg.OperationalError("the connection was closed while it was used"))

    async def _end_of(self, steps: PQGen[Found]) -> Found:
        loop = self._register()
        self._steps, self._answer = steps, loop.create_future()
        try:
            found: Found = await self._answer
        finally:
            self._steps = self._answer = None
        return found

    def _register(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.get_running_loop()
            self._socket = self.pgconn.socket
            loop.add_reader(self._socket, self._read)
            self._loop = loop
        return self._loop

    def _unregister(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop = None

    def _read(self) -> None:
        """Take the next steps, because the socket has something to read."""
        if self._steps is None or self._answer is None or self._answer.done():
            # Nobody waits: it is the connection's end, or a message that nobody asked for. It stays in the socket, where the
            # connection's next user looks for it, and the event loop would report it again and again.
            self._unregister()
            return
        try:
            self._steps.send(_READABLE)
            # There is more to come. After an error of the socket uvloop watches it no longer, though some of it may be unread.
            self._unregister()
            self._register()
        except StopIteration as end:
            self._answer.set_result(end.value)
        except Exception as error:  # noqa: BLE001 - whoever waits handles it
            self._answer.set_exception(error)
        if self.pgconn.status == _BAD:
            self._unregister()

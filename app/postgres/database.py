"""Connections to PostgreSQL, each use of one with deadlines, and transactions whose end is known.

SQLAlchemy keeps the pool; statements run on the driver's connection, because the write path needs what only the driver
shows: pipelined round trips and the command tag of COMMIT (docs/decisions/0003).
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, LiteralString

import psycopg
from psycopg.rows import TupleRow
from psycopg.sql import Composed
from psycopg.types.numeric import Int8Dumper
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.postgres.errors import CommitUnknown, DatabaseOverloaded, DatabaseUnavailable, translate

Parameters = Mapping[str, Any]
Statement = LiteralString | Composed

# A commit that was visible and is then lost in a crash must never be cached; nor may an audit's announcement be lost.
_DURABLE: LiteralString = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)

# Each statement finds its rows by an index, whatever the values: its plan is made once and kept (docs/decisions/0010). One
# that was made while a table was small must not scan it when it has grown. A cursor is read to its end.
_PLANS = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c cursor_tuple_fraction=1"


DIALECT = "postgresql+psycopg://"
"""All that SQLAlchemy needs to know: ``connect`` makes its connections."""


async def connect(url: str, *, timeout_ms: int, **options: Any) -> psycopg.AsyncConnection[TupleRow]:
    """Open a connection to ``url`` as it was given: rewriting it would change what it means.

    Raises:
        psycopg.Error: no connection.
    """
    return await psycopg.AsyncConnection.connect(
        url, connect_timeout=max(1, round(timeout_ms / 1000)), client_encoding="utf8", application_name="larder", **options
    )


def single_use_engine(url: str, *, timeout_ms: int = 10_000) -> AsyncEngine:
    """An engine without a pool, for what runs once, such as migrations."""

    async def open_connection() -> psycopg.AsyncConnection[TupleRow]:
        return await connect(url, timeout_ms=timeout_ms)

    return create_async_engine(DIALECT, async_creator=open_connection, poolclass=NullPool)


class Session:
    """One connection in use. Every statement has a deadline, on this side too: a server that hangs keeps no promise."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow], deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s

    async def rows(self, statement: Statement, parameters: Parameters | None = None) -> list[TupleRow]:
        """Run one statement; return its rows. Raises a ``DatabaseError``."""
        async with self._bounded():
            cursor = await self._connection.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else []

    async def pipeline(self, *statements: tuple[Statement, Parameters | None]) -> list[list[TupleRow]]:
        """Run several statements in one round trip; return the rows of each. Raises a ``DatabaseError``."""
        async with self._bounded():
            async with self._connection.pipeline():
                cursors = [await self._connection.execute(*statement) for statement in statements]
            return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]

    async def commit(self, *last: tuple[Statement, Parameters | None]) -> None:
        """Commit the transaction that a statement ``BEGIN`` opened, after its last statements, in one round trip.

        Raises:
            TransactionConflict, DatabaseFailed: it was rolled back.
            CommitUnknown: the answer was lost.
        """
        try:
            async with self._bounded():
                async with self._connection.pipeline():
                    for statement in last:
                        await self._connection.execute(*statement)
                    cursor = await self._connection.execute("COMMIT")
                tag = cursor.statusmessage
        except DatabaseUnavailable as error:
            raise CommitUnknown(f"the answer to COMMIT was lost: {error}") from error
        except DatabaseOverloaded as error:
            raise CommitUnknown(f"COMMIT was cut off: {error}") from error
        if tag != "COMMIT":  # PostgreSQL answers ROLLBACK, without an error, to the COMMIT of a failed transaction
            raise DatabaseUnavailable(f"the transaction was rolled back: PostgreSQL answered {tag}")

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Cut the connection at the deadline, so that whoever waits on it gets an error; map the driver's errors."""
        timer = asyncio.get_running_loop().call_later(self._deadline_s, _sever, self._connection)
        try:
            yield
        except psycopg.Error as error:
            raise translate(error) from error
        finally:
            timer.cancel()


class Database:
    """The pool of one process."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 10,
        connect_timeout_ms: int = 3_000,
        acquire_timeout_ms: int = 2_000,
        statement_timeout_ms: int = 5_000,
        lock_timeout_ms: int = 2_000,
    ) -> None:
        self._connect_timeout_ms = connect_timeout_ms
        # Longer than the server's own deadline, which says more and keeps the connection.
        self._deadline_s = statement_timeout_ms / 1000 + 1.0
        self._options = (
            f"-c statement_timeout={statement_timeout_ms} -c lock_timeout={lock_timeout_ms}"
            f" -c idle_in_transaction_session_timeout={2 * statement_timeout_ms} -c TimeZone=UTC {_PLANS}"
        )
        self._url = url
        self._opening: dict[int, asyncio.TimerHandle] = {}
        self._engine: AsyncEngine = create_async_engine(
            DIALECT,
            async_creator=self._connect,
            isolation_level="AUTOCOMMIT",
            pool_size=connections,
            max_overflow=0,
            pool_timeout=acquire_timeout_ms / 1000,
            pool_reset_on_return=None,
            skip_autocommit_rollback=True,
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A connection of the pool, in autocommit. Left in error, or inside a transaction, it is closed, not returned.

        Raises:
            DatabaseUnavailable: no connection could be made.
            DatabaseOverloaded: none became free in time.
        """
        pool = self._engine.pool
        held, driver = await self._acquire()
        try:
            yield Session(driver, self._deadline_s)
        except BaseException as error:
            await self._discard(held, driver)
            if isinstance(error, DatabaseUnavailable | CommitUnknown):
                # The others in the pool are of the same server: begin afresh instead of failing once for each.
                await self._engine.dispose()
            raise
        # A connection of a pool that was given up meanwhile has no pool to go back to.
        abandoned = pool is not self._engine.pool
        if abandoned or driver.closed or driver.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            await self._discard(held, driver)
        else:
            await held.close()

    async def rows(self, statement: Statement, parameters: Parameters | None = None) -> list[TupleRow]:
        """Run one reading statement, a second time if its connection was dead. Raises a ``DatabaseError``."""
        try:
            async with self.session() as session:
                return await session.rows(statement, parameters)
        except DatabaseUnavailable:
            async with self.session() as session:
                return await session.rows(statement, parameters)

    def abandon(self) -> None:
        """Give up every connection, because another server is the one to talk to; those in use are closed after their use."""
        self._engine.sync_engine.dispose(close=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def _connect(self) -> psycopg.AsyncConnection[TupleRow]:
        connection = await connect(self._url, timeout_ms=self._connect_timeout_ms, autocommit=True, options=self._options)
        # One type for every number, alone or in a list. The driver would take the smallest that fits, and prepare a statement
        # anew for each combination of them.
        connection.adapters.register_dumper(int, Int8Dumper)
        # Also over what the pool asks a new connection before it hands it out: a server may hang after the login, too.
        timer = asyncio.get_running_loop().call_later(self._connect_timeout_ms / 1000, _sever, connection)
        self._opening[id(connection)] = timer
        try:
            await connection.execute(_DURABLE)
        except BaseException:
            self._opened(connection)
            await connection.close()
            raise
        return connection

    def _opened(self, connection: psycopg.AsyncConnection[Any]) -> None:
        if timer := self._opening.pop(id(connection), None):
            timer.cancel()

    async def _acquire(self) -> tuple[AsyncConnection, psycopg.AsyncConnection[TupleRow]]:
        held = self._engine.connect()
        try:
            await held.start()
            raw = await held.get_raw_connection()
        except exc.TimeoutError as error:
            raise DatabaseOverloaded("all connections to PostgreSQL are in use") from error
        except psycopg.Error as error:
            raise translate(error) from error
        except exc.DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise translate(error.orig) from error
            raise DatabaseUnavailable(str(error.orig)) from error
        except OSError as error:
            raise DatabaseUnavailable(str(error)) from error
        driver = raw.driver_connection
        if not isinstance(driver, psycopg.AsyncConnection):
            raise DatabaseUnavailable("the pool lost its connection")
        self._opened(driver)
        return held, driver

    async def _discard(self, held: AsyncConnection, driver: psycopg.AsyncConnection[TupleRow]) -> None:
        with suppress(exc.SQLAlchemyError, psycopg.Error):
            await driver.close()
            await held.invalidate()
            await held.close()


def _sever(connection: psycopg.AsyncConnection[Any]) -> None:
    """End the conversation from below: the driver, waiting for an answer, sees the connection closed.

    Cancelling the wait instead would make the driver ask the server, which hangs, to cancel, for up to ten seconds.
    """
    with suppress(OSError, psycopg.Error):
        end = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            end.shutdown(socket.SHUT_RDWR)
        finally:
            end.close()

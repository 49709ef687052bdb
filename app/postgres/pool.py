"""A share of a process's connections. It limits the connections in use, the callers that wait, and how long they wait.

A connection is opened when it is needed and none is idle, so a server's refusal reaches the caller at once
(docs/decisions/0012). A connection that failed is closed alone. If it was lost, the idle ones of the share are closed as well,
because they lead to the same server.

A connection that has reached its age is replaced: a new one is opened first, so for that moment there is one more.
"""

import asyncio
import math
import random
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.rows import TupleRow

from .connection import Connection
from .errors import (
    CommitUnknown,
    ConnectionLost,
    ConnectionStale,
    DatabaseError,
    DatabaseOverloaded,
    DatabaseReadOnly,
)
from .pipeline import Parameters, StatementText, round_trip
from .session import Deadline, FollowUp, Session, no_follow_up

Result = TypeVar("Result")

_LOST = (ConnectionLost, DatabaseReadOnly, CommitUnknown)
"""Errors after which no connection of the share is trusted, because all lead to the same server."""

AGE_JITTER = 0.1
"""The greatest share of a connection's age by which it is replaced earlier, so that not all are replaced at once."""
RENEWAL_PAUSE_S = 5.0
"""How long a connection that could not be replaced is kept before the next attempt."""

_REPLACED = -math.inf
_IDLE = psycopg.pq.TransactionStatus.IDLE


class Pool:
    """One share of the connections.

    Args:
        name: the name of the share in error texts.
        connect: opens a connection; it must limit its own duration, and raises a ``DatabaseError``.
        size: most connections.
        waiting_limit: most callers who wait for a connection, beyond which ``DatabaseOverloaded`` is raised at once.
        acquire_timeout_s: longest wait for a connection.
        deadline_s: deadline of each statement.
        max_age_s: the age at which a connection is replaced; 0 is never.
        follow_up: what has to be sent after a statement; by default nothing.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Connection]],
        *,
        size: int,
        waiting_limit: int,
        acquire_timeout_s: float,
        deadline_s: float,
        max_age_s: float = 0,
        follow_up: FollowUp = no_follow_up,
    ) -> None:
        self._follow_up = follow_up
        self._name = name
        self._connect = connect
        self._waiting_limit = waiting_limit
        self._acquire_timeout_s = acquire_timeout_s
        self._deadline_s = deadline_s
        self._places = asyncio.Semaphore(size)
        self._waiting = 0
        self.statements = 0
        """Number of statements sent since the start, but for those of sessions that are in use."""
        self._idle: list[Connection] = []
        self._generation = 0
        """Rises when the share is dropped; connections of an earlier generation are closed after their use."""
        self._max_age_s = max_age_s
        self._ends: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()
        """When each connection reaches its age; ``_REPLACED`` for one that has a successor and is closed after its use."""
        self._renewal: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def session(self, *, fresh: bool = False) -> AsyncIterator[Session]:
        """Lend a connection of the share, in autocommit; a newly opened one if ``fresh``.

        A transaction that is left open is rolled back. Raises a ``DatabaseError``.
        """
        await self._take_place()
        try:
            generation = self._generation
            connection, is_new = await self._take_connection(fresh=fresh)
            session = Session(connection, self._deadline_s, is_new=is_new, follow_up=self._follow_up)
            try:
                yield session
            except DatabaseError as error:
                if isinstance(error, _LOST):
                    self.drop()
                # A new connection cannot be stale: a statement that fails on it would fail on every connection.
                if isinstance(error, _LOST) or (isinstance(error, ConnectionStale) and not is_new):
                    await _close(connection)
                else:
                    await self._give_back(connection, generation)
                raise
            except BaseException:
                # A statement may be under way, and its answer must not be read by another caller.
                await _close(connection)
                raise
            finally:
                self.statements += session.statements
            await self._give_back(connection, generation)
        finally:
            self._places.release()

    @property
    def waiting(self) -> int:
        """Number of callers who wait for a connection."""
        return self._waiting

    async def run(self, work: Callable[[Session], Awaitable[Result]]) -> Result:
        """Run ``work`` with a session, and once more with a new one if the connection was dead, e.g. after a restart.

        Raises what ``work`` raises, and a ``DatabaseError``. ``work`` must be safe to run again after ``ConnectionLost``.
        """
        session = None
        try:
            async with self.session() as session:
                return await work(session)
        except (ConnectionLost, ConnectionStale) as error:
            if session is None or (session.is_new and isinstance(error, ConnectionStale)):
                raise
        async with self.session(fresh=True) as session:
            return await work(session)

    async def rows(self, statement: StatementText, parameters: Parameters | None = None) -> list[TupleRow]:
        """Run one reading statement and return its rows. Raises a ``DatabaseError``."""

        async def read(session: Session) -> list[TupleRow]:
            return await session.rows(statement, parameters)

        return await self.run(read)

    def drop(self) -> None:
        """Drop every connection: idle ones now, those in use after their use."""
        for connection in self._take_idle():
            connection.finish()

    async def close(self) -> None:
        """Close idle connections now, those in use after their use."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        for connection in self._take_idle():
            await _close(connection)

    def _take_idle(self) -> list[Connection]:
        self._generation += 1
        idle, self._idle = self._idle, []
        return idle

    async def _take_place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        if self._waiting >= self._waiting_limit:
            raise DatabaseOverloaded(f"{self._waiting} requests wait for a connection to PostgreSQL ({self._name}) already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise DatabaseOverloaded(f"all connections to PostgreSQL ({self._name}) are in use") from error
        finally:
            self._waiting -= 1

    async def _take_connection(self, *, fresh: bool) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if not fresh and not _has_unread_data(connection):
                return connection, False
            await _close(connection)
            if fresh:
                break
        return await self._open(), True

    async def _open(self) -> Connection:
        connection = await self._connect()
        if self._max_age_s:
            self._ends[connection] = time.monotonic() + self._max_age_s * random.uniform(1 - AGE_JITTER, 1)
        return connection

    async def _give_back(self, connection: Connection, generation: int) -> None:
        usable = not connection.closed
        try:
            usable = usable and (connection.pgconn.transaction_status == _IDLE or await self._rolled_back(connection))
        except BaseException:
            await _close(connection)
            raise
        if usable and generation == self._generation:
            if self._ends.get(connection) == _REPLACED:
                await _close(connection)
                return
            self._idle.append(connection)
            if self._renewal is None and time.monotonic() > self._ends.get(connection, math.inf):
                self._renewal = asyncio.create_task(self._renew(connection, generation))
        else:
            await _close(connection)

    async def _renew(self, old: Connection, generation: int) -> None:
        """Replace a connection that has reached its age. If no other can be opened, it is kept."""
        try:
            new = await self._open()
            if generation != self._generation:
                await _close(new)
                return
            self._idle.append(new)
            self._ends[old] = _REPLACED
            if old in self._idle:
                self._idle.remove(old)
                await _close(old)
        except DatabaseError:
            self._ends[old] = time.monotonic() + RENEWAL_PAUSE_S
        finally:
            self._renewal = None

    async def _rolled_back(self, connection: Connection) -> bool:
        with suppress(DatabaseError), Deadline(connection, self._deadline_s):
            await round_trip(connection, [("ROLLBACK", None)])
        return not connection.closed and connection.pgconn.transaction_status == _IDLE


def _has_unread_data(connection: Connection) -> bool:
    """Return whether an idle connection has something to read: its end, or an unexpected message."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _close(connection: Connection) -> None:
    with suppress(Exception):
        await connection.close()

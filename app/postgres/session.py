"""A connection in use. Its statements have deadlines, and the outcome of a COMMIT is known or reported as unknown.

Statements run on the driver's own connection, because the write path needs pipelined round trips and the command tag of COMMIT
(docs/decisions/0003).
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from .connection import Connection
from .errors import CommitUnknown, DatabaseError, TransactionConflict, translate, was_answered
from .pipeline import Parameters, Result, Statement, StatementText, UnwritableParameter, round_trip

FollowUp = Callable[[StatementText], Sequence[Statement]]
"""Returns the statements that have to follow a statement of a round trip."""


def no_follow_up(_statement: StatementText) -> Sequence[Statement]:
    """Return no statements: nothing follows."""
    return ()


class Session:
    """A connection in use. Every statement has a deadline on this side, too, because a hanging server enforces none."""

    def __init__(
        self, connection: Connection, deadline_s: float, *, is_new: bool = False, follow_up: FollowUp = no_follow_up
    ) -> None:
        self.is_new = is_new
        """Whether the connection was opened for this use."""
        self._follow_up = follow_up
        self._connection = connection
        self._deadline_s = deadline_s
        self.statements = 0
        """Number of statements sent."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open and has not failed."""
        return self._connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS

    async def rows(self, statement: StatementText, parameters: Parameters | None = None) -> list[TupleRow]:
        """Run one statement and return its rows. Raises a ``DatabaseError``."""
        self.statements += 1
        with Deadline(self._connection, self._deadline_s):
            [result] = await round_trip(self._connection, ((statement, parameters),))
        return result.rows

    async def pipeline(self, *statements: Statement) -> list[list[TupleRow]]:
        """Run several statements in one round trip and return the rows of each. Raises a ``DatabaseError``."""
        with Deadline(self._connection, self._deadline_s):
            return [result.rows for result in await self._send(statements)]

    async def commit(self, *last: Statement) -> list[list[TupleRow]]:
        """Run the last statements of an open transaction and commit it, in one round trip; return the rows of each.

        Raises:
            DatabaseError: nothing was sent, or the server reported that it was rolled back. It skips COMMIT after a statement
                that failed.
            CommitUnknown: the answer was lost, whether or not those to earlier statements had come.
        """
        try:
            with Deadline(self._connection, self._deadline_s):
                *results, committed = await self._send((*last, ("COMMIT", None)))
        except DatabaseError as error:
            if was_answered(error) or isinstance(error.__cause__, UnwritableParameter):
                raise
            raise CommitUnknown(f"the answer to COMMIT was lost: {error}") from error
        if committed.tag != "COMMIT":  # PostgreSQL answers ROLLBACK, without an error, to the COMMIT of a failed transaction
            raise TransactionConflict(f"the transaction was rolled back: PostgreSQL answered {committed.tag}")
        return [result.rows for result in results]

    async def _send(self, statements: Sequence[Statement]) -> list[Result]:
        """Run statements in one round trip, each with those that follow it; return the result of each statement."""
        sent: list[Statement] = []
        places = []
        for statement in statements:
            places.append(len(sent))
            sent += (statement, *self._follow_up(statement[0]))
        self.statements += len(sent)
        results = await round_trip(self._connection, sent)
        return [results[place] for place in places]


class Deadline:
    """A context that shuts a connection down at a deadline, so that its user gets an error, and maps the driver's errors."""

    __slots__ = ("_connection", "_seconds", "_timer")

    def __init__(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, _shut_down, self._connection)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._timer.cancel()
        if isinstance(error, Exception):
            raise translate(error) from error


def _shut_down(connection: psycopg.AsyncConnection[Any]) -> None:
    """Shut the socket down, so that the driver, which waits for an answer, finds it closed.

    If the wait were cancelled instead, the driver would send the hanging server a cancel request, for up to ten seconds.
    """
    with suppress(OSError, psycopg.Error):
        end = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            end.shutdown(socket.SHUT_RDWR)
        finally:
            end.close()

"""Transactions of callers over cached tables: what they changed is read back before COMMIT."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ...postgres.database import Database, Parameters, Session, StatementText
from ...postgres.errors import CommitUnknown, DatabaseError, DatabaseOverloaded, LockTimeout, TransactionConflict
from ...postgres.session import Deadline
from ..entity import Entity
from ..errors import Overloaded
from ..ports import State
from . import table_queries
from .table_source import load_parameters, states_of

Change = Callable[[Session], Awaitable[object]]
"""Changes rows in a transaction that is open. What it raises rolls back."""

READ_BACK_ROWS = 1_000
"""Most rows that are read back beside those that the caller named. A transaction that changes more settles."""

_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %(timeout)s, true)"
# Deferred triggers would otherwise change rows during COMMIT, after they were read.
_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE"
_UTC = "SELECT set_config('TimeZone', 'UTC', true)"
_OWN_XID = "SELECT pg_current_xact_id_if_assigned()::text"
_XACT_STATUS = "SELECT pg_xact_status(%(xid)s::text::xid8)"


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a transaction committed in one table."""

    states: Sequence[State]
    complete: bool
    """Whether ``states`` has every row that was changed."""


class TableTransactions:
    """Runs a change in a transaction."""

    def __init__(self, database: Database, *, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
        self._writes = database.writes
        self._loads = database.loads
        self._statement_timeout_s = statement_timeout_ms / 1000
        self._lock_timeout = {"timeout": str(lock_timeout_ms)}

    async def commit(
        self, wanted: Sequence[tuple[Entity, Sequence[str]]], change: Change, check: Callable[[Sequence[ReadBack]], None]
    ) -> Sequence[ReadBack]:
        """Run ``change`` and commit it; return the last state of every row of each table that it changed or that is named.

        Args:
            wanted: the tables, each with keys to read back in any case.
            change: is run once.
            check: looks at what was read back, before COMMIT; what it raises rolls back.

        Raises:
            CommitUnknown: everything was changed, or nothing.
            TransactionConflict: nothing was changed; the same may be tried again.
            Overloaded, DatabaseError: nothing was changed.
            Exception: what ``change`` or ``check`` raised; nothing was changed.
        """
        attempt = _Attempt(wanted, change, check, self._lock_timeout)
        try:
            return await self._writes.run(attempt.run)
        except (DatabaseOverloaded, LockTimeout) as error:
            raise Overloaded(str(error)) from error
        except _RolledBack as rolled_back:
            raise rolled_back.error from None

    async def read_back(
        self,
        connection: psycopg.AsyncConnection[Any],
        wanted: Sequence[tuple[Entity, Sequence[str]]],
        check: Callable[[Sequence[ReadBack]], None],
    ) -> tuple[Sequence[ReadBack], str | None]:
        """Read back what an open transaction on somebody else's connection changed; return its id as well, if it has one.

        Raises:
            TransactionConflict: no transaction is open.
            DatabaseError, SourceRefused: it must be rolled back.
        """
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
            raise TransactionConflict("read_back() must come inside of a transaction, before COMMIT; nothing was read back")

        async def rows(statement: StatementText, parameters: Parameters | None = None) -> list[TupleRow]:
            with Deadline(connection, self._statement_timeout_s):
                cursor = _PlainCursor(connection)
                await cursor.execute(statement, parameters)
                return await cursor.fetchall() if cursor.description else []

        await rows(_CONSTRAINTS)
        await rows(_UTC)  # as on the cache's own connections, so that a payload is the same whoever reads its row
        found = _read_back_of(wanted, [await rows(*statement) for statement in _statements(wanted)])
        check(found)
        [[xid]] = await rows(_OWN_XID)
        return found, xid

    async def check_committed(self, xid: str | None) -> None:
        """Ask the database what became of a transaction. One without an id has changed nothing.

        Raises:
            TransactionConflict: it is open, or was rolled back.
            CommitUnknown: the database gave no answer, or does not know it.
        """
        if xid is None:
            return
        try:
            [[status]] = await self._loads.rows(_XACT_STATUS, {"xid": xid})
        except DatabaseError as error:
            raise CommitUnknown(f"the database could not be asked whether the transaction was committed: {error}") from error
        if status is None:
            raise CommitUnknown(
                "the database does not know the transaction: it may have been another one's; nothing was published"
            )
        if status != "committed":
            raise TransactionConflict(f"the transaction is not committed, its status is {status}; nothing was published")


class _RolledBack(DatabaseError):
    """The transaction was rolled back because of an error that PostgreSQL did not raise; its connection is fine."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _PlainCursor(psycopg.AsyncCursor[TupleRow]):
    """A cursor that makes of a row what one of the cache's own makes, whatever its connection is set to."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)
        self._adapters = psycopg.adapt.AdaptersMap(psycopg.adapters)


@dataclass(slots=True)
class _Attempt:
    wanted: Sequence[tuple[Entity, Sequence[str]]]
    change: Change
    check: Callable[[Sequence[ReadBack]], None]
    lock_timeout: dict[str, str]
    began: bool = False

    async def run(self, session: Session) -> Sequence[ReadBack]:
        """Run the transaction. A lost connection may bring it here again, on another one."""
        if self.began:
            raise TransactionConflict("the connection was lost in the middle of the transaction; nothing was changed")
        await session.pipeline(("BEGIN", None), (_LOCK_TIMEOUT, self.lock_timeout))
        self.began = True
        try:
            await self.change(session)
            _check_open(session)
            found = await self._read_back(session)
            self.check(found)
        except DatabaseError:
            raise
        except Exception as error:
            await session.rows("ROLLBACK")
            raise _RolledBack(error) from error
        await session.commit()
        return found

    async def _read_back(self, session: Session) -> Sequence[ReadBack]:
        _, *answers = await session.pipeline((_CONSTRAINTS, None), *_statements(self.wanted))
        return _read_back_of(self.wanted, answers)


def _statements(wanted: Sequence[tuple[Entity, Sequence[str]]]) -> list[tuple[StatementText, Parameters]]:
    return [
        (table_queries.read_back(entity), {**load_parameters(entity, keys), "limit": READ_BACK_ROWS}) for entity, keys in wanted
    ]


def _read_back_of(
    wanted: Sequence[tuple[Entity, Sequence[str]]], answers: Sequence[Sequence[Sequence[Any]]]
) -> Sequence[ReadBack]:
    return [
        ReadBack(states_of(entity, rows), complete=len(rows) < READ_BACK_ROWS)
        for (entity, _), rows in zip(wanted, answers, strict=True)
    ]


def _check_open(session: Session) -> None:
    if not session.in_transaction:
        raise CommitUnknown("the change ended its transaction itself, so nothing is known about what it committed")

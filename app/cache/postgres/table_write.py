"""Transactions of callers over cached tables: what they changed is read back before COMMIT."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ...postgres.database import Database, Session
from ...postgres.errors import CommitUnknown, DatabaseError, DatabaseOverloaded, LockTimeout, TransactionConflict
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


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a transaction committed in one table."""

    states: Sequence[State]
    complete: bool
    """Whether ``states`` has every row that was changed."""


class TableTransactions:
    """Runs a change in a transaction."""

    def __init__(self, database: Database, *, lock_timeout_ms: int) -> None:
        self._writes = database.writes
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


class _RolledBack(DatabaseError):
    """The transaction was rolled back because of an error that PostgreSQL did not raise; its connection is fine."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


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
        # Deferred triggers would otherwise change rows during COMMIT, after they were read.
        statements = [
            (table_queries.read_back(entity), {**load_parameters(entity, keys), "limit": READ_BACK_ROWS})
            for entity, keys in self.wanted
        ]
        _, *answers = await session.pipeline(("SET CONSTRAINTS ALL IMMEDIATE", None), *statements)
        return [
            ReadBack(states_of(entity, rows), complete=len(rows) < READ_BACK_ROWS)
            for (entity, _), rows in zip(self.wanted, answers, strict=True)
        ]


def _check_open(session: Session) -> None:
    if not session.in_transaction:
        raise CommitUnknown("the change ended its transaction itself, so nothing is known about what it committed")

"""Writes in PostgreSQL: transactions for many requests, tried again after a deadlock or a lost race."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from app.cache.errors import CacheError
from app.cache.history import History
from app.cache.ports import Clock
from app.postgres.database import Database
from app.postgres.errors import (
    CommitUnknown,
    DatabaseFailed,
    DatabaseNewer,
    DatabaseOverloaded,
    DatabaseUnavailable,
    LockTimeout,
    TransactionConflict,
)
from app.products import queries
from app.products.accepted import ApplyFailed, Decode
from app.products.idempotency import WriteRequest
from app.products.pair import Pair
from app.products.transaction import Committed, Patience, Transaction

BACKOFF_S = 0.01
"""Mean pause before the second attempt. It doubles with each further attempt."""


class RowsHeld(LockTimeout):
    """Somebody else still holds the rows that the transaction waited for, or the table itself; nothing was decided."""


class ProductTransactions:
    """Carries out requests in transactions.

    Args:
        database: where they are carried out.
        attempts: most transactions for one batch.
        history: checks the epoch in which changes are committed.
        chance: varies the pauses between attempts.
        clock: a monotonic clock.
        decode: makes requests of accepted writes; ``None`` if no writes are accepted.
        on_accepted: is called with each result that has decided or failed accepted writes.
        pair: the buckets that are here; ``None`` if the service holds all products.
    """

    def __init__(
        self,
        database: Database,
        *,
        attempts: int = 4,
        history: History | None = None,
        chance: random.Random | None = None,
        clock: Clock = time.monotonic,
        decode: Decode | None = None,
        on_accepted: "Callable[[Committed], None] | None" = None,
        pair: Pair | None = None,
    ) -> None:
        self._pair = pair
        self._decode = decode
        self._on_accepted = on_accepted
        self._writes = database.writes
        self._lists = database.lists
        self._attempts = attempts
        self._history = history or History()
        self._chance = chance or random.Random()
        self._clock = clock

    async def commit(self, batch: Sequence[WriteRequest], patience: Patience | None = None) -> Committed:
        """Decide requests one after another and commit their changes. Try again after a deadlock or a lost race.

        Raises:
            RowsHeld: the rows that ``patience`` names, or the table, could not be locked in time; nothing was changed.
            TransactionConflict: another lock was not granted in time, or other transactions were always first; nothing was
                changed.
            DatabaseUnavailable, DatabaseOverloaded, DatabaseFailed: nothing was changed. It is ``DatabaseOverloaded`` if an
                accepted write may be the reason.
            CommitUnknown: everything was changed, or nothing.
        """
        for attempt in range(1, self._attempts + 1):
            work = Transaction(
                batch,
                patience,
                self._history,
                clock=self._clock,
                decode=self._decode,
                again=attempt > 1,
                at_once=attempt == 1 < self._attempts,
                pair=self._pair,
            )
            try:
                return await self._once(work)
            except LockTimeout:
                raise
            except DatabaseFailed as failure:
                if not work.accepted.seqs:
                    raise
                # The applier tries them alone, and marks the one that is the reason.
                raise DatabaseOverloaded(f"it failed together with writes that were accepted before: {failure}") from failure
            except TransactionConflict as conflict:
                if attempt == self._attempts:
                    raise TransactionConflict(f"other transactions were first {attempt} times: {conflict}") from conflict
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1) * self._chance.uniform(0.5, 1.5))
        raise DatabaseFailed("a transaction needs at least one attempt")

    async def apply(self, decode: Decode, only: int | None = None) -> Committed:
        """Decide the lowest accepted writes, or only that of a number, unless another transaction does so now.

        Raises:
            ApplyFailed: nothing was changed, and one of these rows may be the reason.
            DatabaseError: see ``commit``.
        """
        work = Transaction(
            (),
            None,
            self._history,
            clock=self._clock,
            decode=decode,
            applies=True,
            only=only,
            again=True,
            pair=self._pair,
        )
        try:
            return await self._once(work)
        except (DatabaseUnavailable, DatabaseNewer, CommitUnknown, LockTimeout, CacheError):
            raise
        except Exception as error:
            if not work.accepted.seqs:
                raise
            raise ApplyFailed(work.accepted.seqs, error) from error

    async def _once(self, work: "Transaction") -> Committed:
        try:
            committed = await self._writes.run(work.run)
        except LockTimeout as error:
            if work.has_rows:
                raise
            raise RowsHeld(str(error)) from error
        if self._on_accepted and (committed.accepted_decisions or committed.failures):
            self._on_accepted(committed)
        return committed

    async def forget(self, *, age_s: float, limit: int) -> int:
        """Remove up to ``limit`` answers older than ``age_s``; return their number. Raises a ``DatabaseError``."""
        async with self._lists.session() as session:
            return len(await session.rows(queries.FORGET, {"age_s": age_s, "limit": limit}))

"""Writes in PostgreSQL: one transaction for many requests, each with its own decision, ledger entries and answer.

A transaction has three round trips: (1) BEGIN, the idempotency keys and the row locks; (2) the changes and the read-back; (3)
the stored answers and COMMIT. The read-back comes after all changes, so that it contains the effects of triggers and later
statements.

A transaction waits for no row unless it is given ``Patience``. A request whose row somebody else holds is postponed, and the
others are carried out.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.cache.errors import CacheError
from app.cache.ports import Clock, State
from app.cache.postgres.table_queries import EPOCH, parameters
from app.postgres.database import Database, Session
from app.postgres.errors import (
    CommitUnknown,
    DatabaseFailed,
    DatabaseNewer,
    DatabaseOverloaded,
    DatabaseUnavailable,
    LockTimeout,
    TransactionConflict,
)
from app.products import accepted_queries, queries
from app.products.accepted import ROWS_AT_ONCE, ApplyFailed, Decode, Taken, failure_of
from app.products.changes import Statement, record, stamp, steps, store_answer
from app.products.commands import Change, Effect
from app.products.decision import Decision, Denied, Done, Postponed, Repeated
from app.products.errors import KeyReused, Refused
from app.products.idempotency import Answer, IdempotencyKey, StoredAnswer, WriteRequest
from app.products.payload import SCHEMA
from app.products.product import Gone, Row
from app.products.source import PRODUCTS, row_of, state_of

CheckEpoch = Callable[[str, float], None]
"""Takes an epoch and the time when it was requested; raises if nothing may be committed in it (``History.record``)."""

BACKOFF_S = 0.01
"""Mean pause before the second attempt. It doubles with each further attempt."""
_MANY_ROWS = 50
"""Rows above which a transaction's computations are divided."""


class RowsHeld(LockTimeout):
    """Somebody else still holds the rows that the transaction waited for, or the table itself; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a transaction waits for locks that somebody else holds, and for which rows."""

    wait_ms: int
    ids: Sequence[str] = ()
    """The rows to lock first."""
    doubtful: bool = False
    """Whether they are probably held. They are then locked in a separate round trip, so that a failure costs nothing else."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The result of one transaction: a decision for each request, and the last state of every row to publish."""

    decisions: Sequence[Decision]
    states: Sequence[State]
    taken: Sequence[Decision] = ()
    """The decisions on accepted writes."""
    failures: int = 0
    """Number of accepted writes that were marked as failed."""


class ProductTransactions:
    """Carries out requests in transactions."""

    def __init__(
        self,
        database: Database,
        *,
        attempts: int = 4,
        check_epoch: CheckEpoch = lambda _epoch, _asked_at: None,
        chance: random.Random | None = None,
        clock: Clock = time.monotonic,
        decode: Decode | None = None,
        taken: "Callable[[Committed], None] | None" = None,
    ) -> None:
        self._decode = decode
        self._taken = taken
        self._writes = database.writes
        self._lists = database.lists
        self._attempts = attempts
        self._check_epoch = check_epoch
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
            work = _Transaction(batch, patience, self._check_epoch, clock=self._clock, decode=self._decode, again=attempt > 1)
            try:
                return await self._once(work)
            except LockTimeout:
                raise
            except DatabaseFailed as failure:
                if not work.taken.seqs:
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
        work = _Transaction((), None, self._check_epoch, clock=self._clock, decode=decode, applies=True, only=only, again=True)
        try:
            return await self._once(work)
        except (DatabaseUnavailable, DatabaseNewer, CommitUnknown, LockTimeout, CacheError):
            raise
        except Exception as error:
            if not work.taken.seqs:
                raise
            raise ApplyFailed(work.taken.seqs, error) from error

    async def _once(self, work: "_Transaction") -> Committed:
        try:
            committed = await self._writes.run(work.run)
        except LockTimeout as error:
            if work.has_rows:
                raise
            raise RowsHeld(str(error)) from error
        if self._taken and (committed.taken or committed.failures):
            self._taken(committed)
        return committed

    async def forget(self, *, age_s: float, limit: int) -> int:
        """Remove up to ``limit`` answers older than ``age_s``; return their number. Raises a ``DatabaseError``."""
        async with self._lists.session() as session:
            return len(await session.rows(queries.FORGET, {"age_s": age_s, "limit": limit}))


class _Transaction:
    """One attempt to carry out one batch."""

    def __init__(
        self,
        direct: Sequence[WriteRequest],
        patience: Patience | None,
        check_epoch: CheckEpoch,
        *,
        clock: Clock = time.monotonic,
        decode: Decode | None,
        again: bool,
        applies: bool = False,
        only: int | None = None,
    ) -> None:
        self._patience = patience
        self._check_epoch = check_epoch
        self._clock = clock
        self._direct = direct
        self._decode = decode
        self._applies = applies
        self._only = only
        self.taken = Taken()
        self._again = again
        self._batch: Sequence[WriteRequest] = direct
        self._began = 0.0
        self._stored: dict[tuple[str, str], StoredAnswer] = {}
        self._locked: set[tuple[str, str]] = set()
        self._held: set[str] = set()
        self._blocked: dict[str, Sequence[str]] = {}
        """The products of accepted writes that had to wait, each with the products whose rows they waited for."""
        self._before: dict[str, Row] = {}
        self._after: dict[str, Row] = {}
        self._newest: dict[str, int] = {}
        self.has_rows = False
        """Whether the rows are locked, so that a lock timeout concerns something else."""

    async def run(self, session: Session) -> Committed:
        """Run the transaction from the beginning."""
        self._began = self._clock()
        self.has_rows = False
        self.taken = Taken()
        await self._lock(session)
        self.has_rows = True
        decisions = self._decide_all()
        publish_keys = sorted(
            {key for request, decision in zip(self._batch, decisions, strict=True) for key in _visible_keys(request, decision)}
        )
        decisions, states = await self._change(session, decisions, publish_keys)
        await _let_others_run(len(publish_keys))
        answers = [
            statement
            for request, decision in zip(self._batch, decisions, strict=True)
            if (statement := store_answer(request, decision)) is not None
        ]
        answers += self._remove_taken(decisions)
        # The read-back fails if the database no longer accepts this release. A batch that needs none reads the epoch instead.
        ask: Sequence[Statement] = () if publish_keys else ((EPOCH, parameters(PRODUCTS)),)
        if publish_keys or answers:
            await session.commit(*ask, *answers)
        else:
            # Nothing changed, so nothing has to reach the disk. ROLLBACK would make the driver drop its prepared statements.
            await session.pipeline(*ask, ("SET LOCAL synchronous_commit = off", None), ("COMMIT", None))
        count = len(self.taken.seqs)
        return Committed(decisions[count:], states, decisions[:count], len(self.taken.failures))

    def _decide_all(self) -> Sequence[Decision]:
        """Decide the accepted writes and then the direct ones. A request waits for each earlier one that had to wait."""
        self._batch = [*self.taken.requests, *self._direct]
        decisions: list[Decision] = []
        for request in self.taken.requests:
            decision = self._decide(request)
            if isinstance(decision, Postponed):
                self._blocked |= dict.fromkeys(request.command.keys, decision.held or request.command.keys)
            decisions.append(decision)
        self._blocked |= self.taken.blocked
        return decisions + [self._decide(request) for request in self._direct]

    def _remove_taken(self, decisions: Sequence[Decision]) -> list[Statement]:
        """Return the statements that delete the accepted writes that were decided, and mark those that failed."""
        done: list[int] = []
        for seq, request, decision in zip(self.taken.seqs, self.taken.requests, decisions, strict=False):
            if isinstance(decision, Denied) and store_answer(request, decision) is None:
                self.taken.failures[seq] = failure_of(decision.refusal)
            elif not isinstance(decision, Postponed):
                done.append(seq)
        failed = self.taken.failures
        return ([(accepted_queries.APPLIED, {"seqs": done})] if done else []) + (
            [(accepted_queries.FAILED, {"seqs": list(failed), "failures": list(failed.values())})] if failed else []
        )

    async def _lock(self, session: Session) -> None:
        statements: list[Statement] = []
        if self._patience:
            begin: list[Statement] = [("BEGIN", None), (queries.LOCK_TIMEOUT, {"timeout": str(self._patience.wait_ms)})]
            wait: Statement = (queries.WAIT, {"ids": list(self._patience.ids)})
            if self._patience.doubtful:
                await session.pipeline(*begin)
                await session.rows(*wait)
            else:
                statements += [*begin, wait]
        else:
            statements.append(("BEGIN", None))
        ids = sorted({key for request in self._direct for key in request.command.keys})
        self._forget_rows()
        if self._decode is None:
            await self._lock_rows(session, statements, self._direct, ids)
            return
        if self._applies:
            [*_, rows] = await session.pipeline(*statements, (accepted_queries.TAKE_LOWEST, {"limit": ROWS_AT_ONCE}))
        else:
            waiting = (accepted_queries.TAKE_BEFORE, {"ids": ids, **_by_key(self._direct), "limit": ROWS_AT_ONCE + 1})
            rows = await self._lock_rows(session, statements, self._direct, ids, waiting)
        if rows:
            await self.taken.add(rows, self._decode, self._only)
            more = sorted({key for request in self.taken.requests for key in request.command.keys} - self._before.keys())
            await self._lock_rows(session, [], self.taken.requests, more)

    def _forget_rows(self) -> None:
        self._stored, self._locked, self._held, self._before, self._newest = {}, set(), set(), {}, {}
        self._after, self._blocked = {}, {}

    async def _lock_rows(
        self,
        session: Session,
        before: Sequence[Statement],
        requests: Sequence[WriteRequest],
        ids: Sequence[str],
        waiting: Statement | None = None,
    ) -> list[Any]:
        """Lock the keys of requests and the rows of products; return the rows of ``waiting``, which runs between the two."""
        by_key = _by_key(requests)
        has_keys = bool(by_key["keys"])
        statements = list(before)
        if has_keys:
            statements.append((queries.LOCK_KEYS, by_key))
        if waiting:
            statements.append(waiting)
        if has_keys:
            statements.append((queries.STORED_ANSWERS, by_key))
        statements.append((queries.LOCK, {"ids": ids}))
        if self._again:
            statements.append((queries.NEWEST_MOVEMENTS, {"ids": ids}))
        answers = (await session.pipeline(*statements))[len(before) :]
        if has_keys:
            self._locked |= {(caller, key) for caller, key, taken in answers.pop(0) if taken}
        found = answers.pop(0) if waiting else []
        if has_keys:
            self._stored |= {
                (caller, key): StoredAnswer(request_hash, Answer(code, body, version_tag, location), product_ids)
                for caller, key, request_hash, code, body, version_tag, location, product_ids in answers.pop(0)
            }
        rows = answers.pop(0)
        if self._again:
            self._newest |= dict(answers.pop(0))
        self._held |= {product_id for held, product_id, *_ in rows if held}
        self._before |= {product_id: Gone(product_id, 0) for product_id in ids}
        self._before |= {product_id: row_of(product_id, columns) for held, product_id, *columns in rows if not held}
        self._after = dict(self._before)
        return found

    def _decide(self, request: WriteRequest) -> Decision:
        key = request.origin.idempotency_key
        if key and (earlier := self._earlier_decision(key)):
            return earlier
        if self._held and (held := sorted(self._held.intersection(request.command.keys))):
            return Postponed(held)
        if self._blocked and (blocked := self._blocked.keys() & set(request.command.keys)):
            return Postponed(sorted({held for product_id in blocked for held in self._blocked[product_id]}))
        try:
            effects = [self._above_the_ledger(effect) for effect in request.command.decide(self._after)]
        except Refused as refusal:
            return Denied(refusal)
        self._after.update((e.row.id, e.row) for e in effects if e.change is not Change.UNCHANGED)
        return Done(effects)

    def _above_the_ledger(self, effect: Effect) -> Effect:
        """Raise the effect's version above the ledger's. A product that was restored without its ledger is behind it."""
        newest = self._newest.get(effect.row.id, 0)
        if effect.change is Change.UNCHANGED or effect.row.version > newest:
            return effect
        return replace(effect, row=replace(effect.row, version=newest + 1))

    def _earlier_decision(self, key: IdempotencyKey) -> Denied | Repeated | Postponed | None:
        name = (key.caller, key.key)
        if stored := self._stored.get(name):
            if stored.request_hash != key.request_hash:
                return Denied(KeyReused("the idempotency key was used for another request"))
            return Repeated(stored.answer, stored.product_ids)
        if name not in self._locked:
            return Postponed()
        self._locked.discard(name)  # a second request of this key in this batch waits for the first one's answer
        return None

    async def _change(
        self, session: Session, decisions: Sequence[Decision], publish_keys: Sequence[str]
    ) -> tuple[Sequence[Decision], Sequence[State]]:
        if not publish_keys:
            return decisions, ()
        await _let_others_run(len(publish_keys))
        changed = {key: row for key, row in self._after.items() if row is not self._before[key]}
        made = record(self._batch, decisions) + steps(self._before, changed)
        statements = [(step.statement, step.parameters) for step in made]
        *done, found = await session.pipeline(*statements, (queries.READ_BACK, {"ids": list(publish_keys), "knows": SCHEMA}))
        self._check_epoch(found[0][0], self._began)
        await _let_others_run(len(publish_keys))
        recorded_at = None
        for step, rows in zip(made, done, strict=True):
            if len(rows) < step.row_count:
                raise TransactionConflict("a product was created meanwhile, or the ledger is ahead of its product")
            if step.statement is queries.RECORD:
                recorded_at = rows[0][0]
        final = {product_id: row_of(product_id, columns) for _, product_id, *columns in found}
        states = [state_of(final[product_id], epoch) for epoch, product_id, *_ in found]
        await _let_others_run(len(publish_keys))
        stamped = [
            Done([stamp(effect, final, recorded_at) for effect in d.effects]) if isinstance(d, Done) else d for d in decisions
        ]
        return stamped, states


async def _let_others_run(rows: int) -> None:
    """Let other requests be served between two steps that take long for many rows."""
    if rows > _MANY_ROWS:
        await asyncio.sleep(0)


def _visible_keys(request: WriteRequest, decision: Decision) -> Sequence[str]:
    """Return the products whose present rows must be published before this decision is answered (R10)."""
    if isinstance(decision, Repeated):
        return decision.product_ids
    return request.command.keys if isinstance(decision, Done) else ()


def _by_key(requests: Sequence[WriteRequest]) -> dict[str, Any]:
    sent = [key for request in requests if (key := request.origin.idempotency_key)]
    return {"callers": [key.caller for key in sent], "keys": [key.key for key in sent]}

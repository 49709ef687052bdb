"""Writes in PostgreSQL: many requests, one transaction, each with its own decision, ledger entries and answer.

Three round trips: BEGIN, the idempotency keys and the row locks; the changes and the read-back; the kept answers and COMMIT.
The read-back comes after all changes, so that what is published is what triggers and later statements left.

A transaction waits for nobody's row, unless it is told to: a request that needs a row which somebody else holds is postponed,
and the others are done.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString

from app.cache.ports import State
from app.postgres.database import Database, Session
from app.postgres.errors import DatabaseFailed, LockTimeout, TransactionConflict
from app.products import queries
from app.products.commands import UNSTAMPED, Change, Effect
from app.products.decision import Decision, Denied, Done, Postponed, Repeated
from app.products.errors import KeyReused, Refused
from app.products.idempotency import Answer, Asked, Kept, Once
from app.products.payload import SCHEMA
from app.products.product import Gone, Product, Row
from app.products.source import row_of, state_of

Statement = tuple[LiteralString, Mapping[str, Any] | None]

Told = Callable[[str, float], None]
"""Takes an epoch and when it was asked for, before COMMIT; raises when it must not be committed in (``History.told``)."""

BACKOFF_S = 0.01
"""Mean pause before the second attempt; doubles with each further one."""


class RowsHeld(LockTimeout):
    """The rows to be waited for, or the table itself, stayed with somebody else; nothing was decided."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a transaction waits for somebody else's locks, instead of not at all."""

    wait_ms: int
    ids: Sequence[str] = ()
    """The rows to be had first."""
    doubtful: bool = False
    """Whether they will hardly be had: then they are asked for in a round trip of their own, whose failure skips nothing."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What one transaction did: a decision for each request, and the last state of every row they speak of."""

    decisions: Sequence[Decision]
    states: Sequence[State]


@dataclass(frozen=True, slots=True)
class _Step:
    """A statement that changes something; ``made``: the rows that it has to make and give back."""

    statement: LiteralString
    parameters: Mapping[str, Any]
    made: int = 0


class ProductTransactions:
    """Runs requests in transactions."""

    def __init__(
        self,
        database: Database,
        *,
        attempts: int = 4,
        told: Told = lambda _epoch, _asked_at: None,
        chance: random.Random | None = None,
    ) -> None:
        self._writes = database.writes
        self._lists = database.lists
        self._attempts = attempts
        self._told = told
        self._chance = chance or random.Random()

    async def commit(self, batch: Sequence[Asked], patience: Patience | None = None) -> Committed:
        """Decide requests one after another and commit what they change; try again after a deadlock or a lost race.

        Raises:
            RowsHeld: the rows that ``patience`` names, or the table, could not be had in time; nothing was changed.
            TransactionConflict: another lock could not be had in time, or other transactions were always first; the same.
            DatabaseUnavailable, DatabaseOverloaded, DatabaseFailed: nothing was changed.
            CommitUnknown: everything was changed, or nothing.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._once(batch, patience, again=attempt > 1)
            except LockTimeout:
                raise
            except TransactionConflict as conflict:
                if attempt == self._attempts:
                    raise TransactionConflict(f"other transactions were first {attempt} times: {conflict}") from conflict
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1) * self._chance.uniform(0.5, 1.5))
        raise DatabaseFailed("a transaction needs at least one attempt")

    async def _once(self, batch: Sequence[Asked], patience: Patience | None, *, again: bool) -> Committed:
        transaction = _Transaction(batch, patience, self._told, again=again)
        try:
            return await self._writes.run(transaction.run)
        except LockTimeout as error:
            if transaction.has_rows:
                raise
            raise RowsHeld(str(error)) from error

    async def forget(self, *, age_s: float, limit: int) -> int:
        """Remove up to ``limit`` answers kept for longer than ``age_s``; return their number. Raises a ``DatabaseError``."""
        async with self._lists.session() as session:
            return len(await session.rows(queries.FORGET, {"age_s": age_s, "limit": limit}))


class _Transaction:
    """One attempt at one batch."""

    def __init__(self, batch: Sequence[Asked], patience: Patience | None, told: Told, *, again: bool) -> None:
        self._patience = patience
        self._told = told
        self._batch = batch
        self._again = again
        self._began = 0.0
        self._kept: dict[tuple[str, str], Kept] = {}
        self._locked: set[tuple[str, str]] = set()
        self._held: set[str] = set()
        self._before: dict[str, Row] = {}
        self._after: dict[str, Row] = {}
        self._newest: Mapping[str, int] = {}
        self.has_rows = False
        """Whether the rows are locked, so that whatever is waited for is something else."""

    async def run(self, session: Session) -> Committed:
        """Do it, from the beginning."""
        self._began = time.monotonic()
        self.has_rows = False
        await self._lock(session)
        self.has_rows = True
        decisions: Sequence[Decision] = [self._decide(asked) for asked in self._batch]
        spoken_of = sorted(
            {key for asked, decision in zip(self._batch, decisions, strict=True) for key in _touched(asked, decision)}
        )
        decisions, states = await self._change(session, decisions, spoken_of)
        keep = [
            statement
            for asked, decision in zip(self._batch, decisions, strict=True)
            if (statement := _keep(asked, decision)) is not None
        ]
        # The read-back raises if the database no longer accepts this release. A batch that has none asks for the epoch instead.
        ask: Sequence[Statement] = () if spoken_of else ((queries.EPOCH, {"knows": SCHEMA}),)
        if spoken_of or keep:
            await session.commit(*ask, *keep)
        else:
            # Nothing changed, so nothing has to reach the disk. Not ROLLBACK: the driver would forget what it has prepared.
            await session.pipeline(*ask, ("SET LOCAL synchronous_commit = off", None), ("COMMIT", None))
        return Committed(decisions, states)

    async def _lock(self, session: Session) -> None:
        ids = sorted({key for asked in self._batch for key in asked.command.keys})
        onces = [asked.once for asked in self._batch if asked.once]
        by_key = {"callers": [once.caller for once in onces], "keys": [once.key for once in onces]}
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
        if onces:
            statements += [(queries.LOCK_KEYS, by_key), (queries.KEPT, by_key)]
        statements.append((queries.LOCK, {"ids": ids}))
        if self._again:
            statements.append((queries.NEWEST_MOVEMENTS, {"ids": ids}))
        answers = await session.pipeline(*statements)
        if self._again:
            self._newest = dict(answers.pop())
        rows = answers.pop()
        if onces:
            locked, kept = answers[-2:]
            self._locked = {(caller, key) for caller, key, taken in locked if taken}
            self._kept = {
                (caller, key): Kept(request_hash, Answer(status, body, etag, location), product_ids)
                for caller, key, request_hash, status, body, etag, location, product_ids in kept
            }
        self._held = {product_id for held, product_id, *_ in rows if held}
        self._before = {product_id: Gone(product_id, 0) for product_id in ids}
        self._before.update((product_id, row_of(product_id, columns)) for held, product_id, *columns in rows if not held)
        self._after = dict(self._before)

    def _decide(self, asked: Asked) -> Decision:
        if asked.once and (earlier := self._earlier(asked.once)):
            return earlier
        if self._held and (held := sorted(self._held.intersection(asked.command.keys))):
            return Postponed(held)
        try:
            effects = [self._above_the_ledger(effect) for effect in asked.command.decide(self._after)]
        except Refused as refusal:
            return Denied(refusal)
        self._after.update((e.row.id, e.row) for e in effects if e.change is not Change.UNCHANGED)
        return Done(effects)

    def _above_the_ledger(self, effect: Effect) -> Effect:
        """An effect whose version the ledger does not have yet: it may be ahead of a product that was restored alone."""
        newest = self._newest.get(effect.row.id, 0)
        if effect.change is Change.UNCHANGED or effect.row.version > newest:
            return effect
        return replace(effect, row=replace(effect.row, version=newest + 1))

    def _earlier(self, once: Once) -> Denied | Repeated | Postponed | None:
        name = (once.caller, once.key)
        if kept := self._kept.get(name):
            if kept.request_hash != once.request_hash:
                return Denied(KeyReused("the idempotency key was used for another request"))
            return Repeated(kept.answer, kept.product_ids)
        if name not in self._locked:
            return Postponed()
        self._locked.discard(name)  # a second request of this key in this batch waits for the first one's answer
        return None

    async def _change(
        self, session: Session, decisions: Sequence[Decision], spoken_of: Sequence[str]
    ) -> tuple[Sequence[Decision], Sequence[State]]:
        if not spoken_of:
            return decisions, ()
        changed = {key: row for key, row in self._after.items() if row is not self._before[key]}
        steps = _record(self._batch, decisions) + _steps(self._before, changed)
        statements = [(step.statement, step.parameters) for step in steps]
        *done, found = await session.pipeline(*statements, (queries.LOAD, {"ids": list(spoken_of), "knows": SCHEMA}))
        self._told(found[0][0], self._began)
        recorded_at = None
        for step, rows in zip(steps, done, strict=True):
            if len(rows) < step.made:
                raise TransactionConflict("a product of that id was created meanwhile, or the ledger is ahead of its product")
            if step.statement is queries.RECORD:
                recorded_at = rows[0][0]
        final = {product_id: row_of(product_id, columns) for _, product_id, *columns in found}
        states = [state_of(final[product_id], epoch) for epoch, product_id, *_ in found]
        stamped = [
            Done([_stamp(effect, final, recorded_at) for effect in d.effects]) if isinstance(d, Done) else d for d in decisions
        ]
        return stamped, states


def _touched(asked: Asked, decision: Decision) -> Sequence[str]:
    """The products whose present rows must be published before this decision is answered (R10)."""
    if isinstance(decision, Repeated):
        return decision.product_ids
    return asked.command.keys if isinstance(decision, Done) else ()


def _record(batch: Sequence[Asked], decisions: Sequence[Decision]) -> list[_Step]:
    entries = [
        (movement, asked)
        for asked, decision in zip(batch, decisions, strict=True)
        if isinstance(decision, Done)
        for effect in decision.effects
        for movement in effect.movements()
    ]
    if not entries:
        return []
    # In one order for everybody, like the locks: two transactions that create the same products would wait for each other.
    entries.sort(key=lambda entry: (entry[0].product_id, entry[0].version, entry[0].line))
    rows = [
        {
            "id": movement.product_id,
            "version": movement.version,
            "line": movement.line,
            "delta": movement.delta,
            "stock": movement.stock_after,
            "reason": movement.reason,
            "reference": movement.reference,
            "actor": asked.actor,
            "request": asked.request_id,
            "key": asked.idempotency_key,
        }
        for movement, asked in entries
    ]
    return [_Step(queries.RECORD, {"rows": json.dumps(rows)}, made=len(rows))]


def _steps(before: Mapping[str, Row], changed: Mapping[str, Row]) -> list[_Step]:
    products = [row for row in changed.values() if isinstance(row, Product)]
    new = [row for row in products if before[row.id].version == 0]
    known = [row for row in products if before[row.id].version > 0]
    gone = [row for row in changed.values() if isinstance(row, Gone)]
    # Created and deleted again by the requests of one transaction: it must leave a tombstone, so that its version goes on.
    born_dead = [row for row in gone if before[row.id].version == 0]
    buried = [row for row in gone if before[row.id].version > 0]
    steps: list[_Step] = []
    if new or born_dead:
        placeholders = [Product(row.id, row.id, 0, 0, 0, row.version, UNSTAMPED, UNSTAMPED) for row in born_dead]
        inserted = sorted([*new, *placeholders], key=lambda row: row.id)
        dead = {row.id for row in born_dead}
        gone_at_once = [row.id in dead for row in inserted]
        steps.append(_Step(queries.INSERT, {**_columns(inserted), "gone": gone_at_once}, made=len(inserted)))
    if known:
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "price": row.price_cents,
                "stock": row.stock,
                "reorder_point": row.reorder_point,
                "version": row.version,
                "created": row.created_at == UNSTAMPED,
            }
            for row in known
        ]
        steps.append(_Step(queries.UPDATE, {"rows": json.dumps(rows), "ids": [row.id for row in known]}))
    if buried:
        parameters = {"ids": [row.id for row in buried], "versions": [row.version for row in buried]}
        steps.append(_Step(queries.BURY, parameters))
    return steps


def _columns(rows: Sequence[Product]) -> dict[str, Any]:
    return {
        "ids": [row.id for row in rows],
        "names": [row.name for row in rows],
        "prices": [row.price_cents for row in rows],
        "stocks": [row.stock for row in rows],
        "reorder_points": [row.reorder_point for row in rows],
        "versions": [row.version for row in rows],
    }


def _stamp(effect: Effect, final: Mapping[str, Row], recorded_at: datetime | None) -> Effect:
    """An effect with the database's times. A later request of the same transaction may have gone on from it."""
    row, last = effect.row, final[effect.row.id]
    if isinstance(row, Product) and effect.change is not Change.UNCHANGED:
        if isinstance(last, Product) and row.version == last.version:
            row = last
        else:
            at = last.updated_at if isinstance(last, Product) else recorded_at or UNSTAMPED
            row = replace(row, created_at=at if row.created_at == UNSTAMPED else row.created_at, updated_at=at)
    return replace(effect, row=row, recorded_at=recorded_at if effect.entries else None)


def _keep(asked: Asked, decision: Decision) -> Statement | None:
    """The statement that keeps the answer to a request with a key, if it has one that is to be kept."""
    once = asked.once
    if once is None or isinstance(decision, Repeated | Postponed):
        return None
    result = decision.effects if isinstance(decision, Done) else decision.refusal
    if isinstance(result, KeyReused):
        return None
    answer = once.render(result)
    if answer is None:
        return None
    parameters = {
        "caller": once.caller,
        "key": once.key,
        "request_hash": once.request_hash,
        "status": answer.status,
        "body": answer.body,
        "etag": answer.etag,
        "location": answer.location,
        "product_ids": list(asked.command.keys),
    }
    return queries.KEEP, parameters

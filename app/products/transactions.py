"""Writes in PostgreSQL: many requests, one transaction, each with its own decision, ledger entries and answer.

Three round trips: BEGIN, the idempotency keys and the row locks; the changes and the read-back; the kept answers and COMMIT.
The read-back comes after all changes, so that what is published is what triggers and later statements left.
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
from app.postgres.errors import DatabaseFailed, DatabaseOverloaded, DatabaseUnavailable, TransactionConflict
from app.products import queries
from app.products.commands import UNSTAMPED, Change, Effect
from app.products.errors import KeyReused, Refused
from app.products.idempotency import Answer, Asked, Busy, Kept, Once, Replayed
from app.products.payload import SCHEMA
from app.products.product import Gone, Product, Row
from app.products.source import row_of, state_of

Statement = tuple[LiteralString, Mapping[str, Any]]
Result = Sequence[Effect] | Refused | Replayed | Busy

Told = Callable[[str, float], None]
"""Takes an epoch and when it was asked for, before COMMIT; raises when it must not be committed in (``History.told``)."""

BACKOFF_S = 0.01
"""Mean pause before the second attempt; doubles with each further one."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What one transaction did: a result for each request, and the last state of every row they speak of."""

    results: Sequence[Result]
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
        self._database = database
        self._attempts = attempts
        self._told = told
        self._chance = chance or random.Random()

    async def commit(self, batch: Sequence[Asked], *, retry: bool = True) -> Committed:
        """Decide requests one after another and commit what they change.

        Args:
            batch: requests that share the transaction.
            retry: after a deadlock, a lost race or a lock that was not given, try again, up to the number of attempts.

        Raises:
            DatabaseUnavailable, DatabaseOverloaded, DatabaseFailed: nothing was changed.
            CommitUnknown: everything was changed, or nothing.
        """
        attempts = self._attempts if retry else 1
        for attempt in range(1, attempts + 1):
            try:
                return await self._once(batch)
            except TransactionConflict as conflict:
                if attempt == attempts:
                    raise DatabaseOverloaded(f"other transactions were first {attempt} times: {conflict}") from conflict
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1) * self._chance.uniform(0.5, 1.5))
        raise DatabaseFailed("a transaction needs at least one attempt")

    async def _once(self, batch: Sequence[Asked]) -> Committed:
        try:
            async with self._database.session() as session:
                return await _Transaction(session, batch, self._told).run()
        except DatabaseUnavailable:
            # Once more, on a fresh connection: that one may have died with a restart long ago. Nothing is committed.
            async with self._database.session() as session:
                return await _Transaction(session, batch, self._told).run()

    async def forget(self, *, age_s: float, limit: int) -> int:
        """Remove up to ``limit`` answers kept for longer than ``age_s``; return their number. Raises a ``DatabaseError``."""
        async with self._database.session() as session:
            return len(await session.rows(queries.FORGET, {"age_s": age_s, "limit": limit}))


class _Transaction:
    """One attempt at one batch."""

    def __init__(self, session: Session, batch: Sequence[Asked], told: Told) -> None:
        self._session = session
        self._told = told
        self._began = time.monotonic()
        self._batch = batch
        self._kept: dict[tuple[str, str], Kept] = {}
        self._locked: set[tuple[str, str]] = set()
        self._before: dict[str, Row] = {}
        self._after: dict[str, Row] = {}

    async def run(self) -> Committed:
        await self._lock()
        results: Sequence[Result] = [self._decide(asked) for asked in self._batch]
        spoken_of = sorted(
            {key for asked, result in zip(self._batch, results, strict=True) for key in self._touched(asked, result)}
        )
        results, states = await self._change(results, spoken_of)
        keep = [
            _keep(asked, answer)
            for asked, result in zip(self._batch, results, strict=True)
            if asked.once and not isinstance(result, Replayed | Busy | KeyReused) and (answer := asked.once.render(result))
        ]
        if spoken_of or keep:
            await self._session.commit(*keep)
        else:
            # Nothing changed, so nothing has to reach the disk. Not ROLLBACK: the driver would forget what it has prepared.
            await self._session.pipeline(("SET LOCAL synchronous_commit = off", None), ("COMMIT", None))
        return Committed(results, states)

    async def _lock(self) -> None:
        ids = sorted({key for asked in self._batch for key in asked.command.keys})
        onces = [asked.once for asked in self._batch if asked.once]
        by_key = {"callers": [once.caller for once in onces], "keys": [once.key for once in onces]}
        begin = ("BEGIN", None)
        lock = (queries.LOCK, {"ids": ids})
        if onces:
            _, locked, kept, rows = await self._session.pipeline(
                begin, (queries.LOCK_KEYS, by_key), (queries.KEPT, by_key), lock
            )
            self._locked = {(caller, key) for caller, key, taken in locked if taken}
            for caller, key, request_hash, status, body, etag, location, product_ids in kept:
                self._kept[caller, key] = Kept(request_hash, Answer(status, body, etag, location), product_ids)
        else:
            _, rows = await self._session.pipeline(begin, lock)
        self._before = {product_id: Gone(product_id, 0) for product_id in ids}
        self._before.update((product_id, row_of(product_id, columns)) for product_id, *columns in rows)
        self._after = dict(self._before)

    def _decide(self, asked: Asked) -> Result:
        if asked.once and (earlier := self._earlier(asked.once)):
            return earlier
        try:
            effects = asked.command.decide(self._after)
        except Refused as refusal:
            return refusal
        self._after.update((e.row.id, e.row) for e in effects if e.change is not Change.UNCHANGED)
        return effects

    def _earlier(self, once: Once) -> Refused | Replayed | Busy | None:
        name = (once.caller, once.key)
        if kept := self._kept.get(name):
            if kept.request_hash != once.request_hash:
                return KeyReused("the idempotency key was used for another request")
            return Replayed(kept.answer)
        if name not in self._locked:
            return Busy()
        self._locked.discard(name)  # a second request of this key in this batch waits for the first one's answer
        return None

    def _touched(self, asked: Asked, result: Result) -> Sequence[str]:
        """The products whose present rows must be published before this result is answered (R10)."""
        if isinstance(result, Replayed) and asked.once:
            return self._kept[asked.once.caller, asked.once.key].product_ids
        return () if isinstance(result, Exception) else asked.command.keys

    async def _change(self, results: Sequence[Result], spoken_of: Sequence[str]) -> tuple[Sequence[Result], Sequence[State]]:
        if not spoken_of:
            return results, ()
        changed = {key: row for key, row in self._after.items() if row is not self._before[key]}
        steps = _record(self._batch, results) + _steps(self._before, changed)
        statements = [(step.statement, step.parameters) for step in steps]
        *done, found = await self._session.pipeline(*statements, (queries.LOAD, {"ids": list(spoken_of), "knows": SCHEMA}))
        self._told(found[0][0], self._began)
        recorded_at = None
        for step, rows in zip(steps, done, strict=True):
            if len(rows) < step.made:
                await self._session.rows("ROLLBACK")
                raise TransactionConflict("a product of that id was created meanwhile")
            if step.statement is queries.RECORD:
                recorded_at = rows[0][0]
        final = {product_id: row_of(product_id, columns) for _, product_id, *columns in found}
        states = [state_of(final[product_id], epoch) for epoch, product_id, *_ in found]
        return [r if isinstance(r, Exception) else [_stamp(e, final, recorded_at) for e in r] for r in results], states


def _record(batch: Sequence[Asked], results: Sequence[Result]) -> list[_Step]:
    entries = [
        (movement, asked)
        for asked, result in zip(batch, results, strict=True)
        if not isinstance(result, Exception)
        for effect in result
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


def _keep(asked: Asked, answer: Answer) -> Statement:
    once = asked.once
    if once is None:
        raise DatabaseFailed("only a request with a key has an answer to keep")
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

"""Writes in PostgreSQL: many commands, one transaction, each with its own decision and answer.

Three round trips: BEGIN and the row locks; the changes and the read-back; COMMIT. The read-back comes last before COMMIT,
so that what is published is what triggers and later statements left.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString

from app.cache.ports import State
from app.postgres.database import Database, Session
from app.postgres.errors import DatabaseFailed, DatabaseOverloaded, DatabaseUnavailable, TransactionConflict
from app.products import queries
from app.products.commands import UNSTAMPED, Change, Command, Effect
from app.products.errors import Refused
from app.products.product import Gone, Product, Row
from app.products.source import row_of, state_of

Statement = tuple[LiteralString, Mapping[str, Any]]

BACKOFF_S = 0.01
"""Mean pause before the second attempt; doubles with each further one."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What one transaction did: an answer for each command, and the last state of every row they speak of."""

    results: Sequence[Sequence[Effect] | Refused]
    states: Sequence[State]


class ProductTransactions:
    """Runs commands in transactions."""

    def __init__(self, database: Database, *, attempts: int = 4, chance: random.Random | None = None) -> None:
        self._database = database
        self._attempts = attempts
        self._chance = chance or random.Random()

    async def commit(self, commands: Sequence[Command]) -> Committed:
        """Decide commands one after another and commit what they change.

        Raises:
            DatabaseUnavailable, DatabaseOverloaded, DatabaseFailed: nothing was changed.
            CommitUnknown: everything was changed, or nothing.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                async with self._database.session() as session:
                    return await _attempt(session, commands)
            except DatabaseUnavailable:
                # Once more, on a fresh connection: this one may have died with a restart long ago. Nothing is committed.
                if attempt > 1:
                    raise
            except TransactionConflict as conflict:
                if attempt == self._attempts:
                    raise DatabaseOverloaded(f"other transactions were first {attempt} times: {conflict}") from conflict
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1) * self._chance.uniform(0.5, 1.5))
        raise DatabaseFailed("a transaction needs at least one attempt")


async def _attempt(session: Session, commands: Sequence[Command]) -> Committed:
    ids = sorted({key for command in commands for key in command.keys})
    _, locked = await session.pipeline(("BEGIN", None), (queries.LOCK, {"ids": ids}))
    before: dict[str, Row] = {product_id: Gone(product_id, 0) for product_id in ids}
    before.update((product_id, row_of(product_id, columns)) for product_id, *columns in locked)
    after = dict(before)
    results = [_decide(command, after) for command in commands]
    spoken_of = sorted(
        {
            key
            for command, result in zip(commands, results, strict=True)
            if not isinstance(result, Refused)
            for key in command.keys
        }
    )
    if not spoken_of:
        await session.rows("ROLLBACK")
        return Committed(results, ())
    changed = {key: after[key] for key in spoken_of if after[key] is not before[key]}
    statements = _statements(before, changed)
    *done, found = await session.pipeline(*statements, (queries.LOAD, {"ids": spoken_of}))
    for (statement, parameters), rows in zip(statements, done, strict=True):
        if statement is queries.INSERT and len(rows) < len(parameters["ids"]):
            await session.rows("ROLLBACK")
            raise TransactionConflict("a product of that id was created meanwhile")
    final = {product_id: row_of(product_id, columns) for _, product_id, *columns in found}
    states = [state_of(final[product_id], epoch) for epoch, product_id, *_ in found]
    await session.commit()
    return Committed([r if isinstance(r, Refused) else [_stamp(e, final) for e in r] for r in results], states)


def _decide(command: Command, rows: dict[str, Row]) -> Sequence[Effect] | Refused:
    try:
        effects = command.decide(rows)
    except Refused as refusal:
        return refusal
    rows.update((effect.row.id, effect.row) for effect in effects if effect.change is not Change.UNCHANGED)
    return effects


def _statements(before: Mapping[str, Row], changed: Mapping[str, Row]) -> list[Statement]:
    products = [row for row in changed.values() if isinstance(row, Product)]
    new = [row for row in products if before[row.id].version == 0]
    known = [row for row in products if before[row.id].version > 0]
    # Created and deleted again by the commands of one transaction: it must leave a tombstone, so that its version goes on.
    gone = [row for row in changed.values() if isinstance(row, Gone)]
    born_dead = [row for row in gone if before[row.id].version == 0]
    statements: list[Statement] = []
    if new or born_dead:
        placeholders = [Product(r.id, r.id, 0, 0, 0, r.version - 1, UNSTAMPED, UNSTAMPED) for r in born_dead]
        statements.append((queries.INSERT, _columns(sorted([*new, *placeholders], key=lambda row: row.id))))
    if known:
        statements.append((queries.UPDATE, _columns(known)))
    if gone:
        statements.append((queries.BURY, {"ids": [row.id for row in gone], "versions": [row.version for row in gone]}))
    return statements


def _columns(rows: Sequence[Product]) -> dict[str, Any]:
    return {
        "ids": [row.id for row in rows],
        "names": [row.name for row in rows],
        "prices": [row.price_cents for row in rows],
        "stocks": [row.stock for row in rows],
        "reorder_points": [row.reorder_point for row in rows],
        "versions": [row.version for row in rows],
    }


def _stamp(effect: Effect, final: Mapping[str, Row]) -> Effect:
    """An effect with the database's times. A later command of the same transaction may have gone on from it."""
    row, last = effect.row, final[effect.row.id]
    if not isinstance(row, Product) or not isinstance(last, Product):
        return effect
    if row.version == last.version:
        return replace(effect, row=last)
    return replace(effect, row=replace(row, created_at=last.created_at, updated_at=last.updated_at))

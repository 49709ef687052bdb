"""What a transaction changes: the statements for it, the read-back behind them, and what their answers say."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from app.cache.ports import State
from app.postgres.database import Statement
from app.products import queries
from app.products.decision import Decision, Done
from app.products.payload import SCHEMA
from app.products.product import Row
from app.products.source import row_of, state_of
from app.products.steps import Step, stamp

_MANY_ROWS = 50
"""Rows above which a transaction's computations are divided."""


async def let_others_run(rows: int) -> None:
    """Let other requests be served between two steps that take long for many rows."""
    if rows > _MANY_ROWS:
        await asyncio.sleep(0)


class Changes:
    """The changes of one transaction, and the rows that it reads back."""

    def __init__(
        self, before: Mapping[str, Row], steps: Sequence[Step], decisions: Sequence[Decision], keys: Sequence[str]
    ) -> None:
        self._before = before
        self._steps = steps
        self._decisions = decisions
        self._keys = keys

    def statements(self, epoch: str = "") -> list[Statement]:
        """Return the statements, the read-back last. If ``epoch`` is given, they fail in any other epoch."""
        read_back: Statement = (queries.READ_BACK, {"ids": list(self._keys), "knows": SCHEMA, "epoch": epoch})
        return [*((step.statement, step.parameters) for step in self._steps), read_back]

    async def result(self, answers: Sequence[Sequence[Any]]) -> tuple[Sequence[Decision], Sequence[State]]:
        """Return the decisions with the database's times, and the states to publish, from the answers to the statements."""
        await let_others_run(len(self._keys))
        *done, found = answers
        recorded = [rows[0][0] for step, rows in zip(self._steps, done, strict=True) if step.statement is queries.RECORD]
        recorded_at = recorded[0] if recorded else None
        final = {product_id: row_of(product_id, columns) for _, product_id, *columns in found}
        states = [state_of(final[product_id], epoch) for epoch, product_id, *_ in found]
        await let_others_run(len(self._keys))
        stamped = [
            Done([stamp(effect, self._before, final, recorded_at) for effect in d.effects], None, d.product_ids)
            if isinstance(d, Done) and d.reservation is None  # otherwise the reservation is the answer, and has its times
            else d
            for d in self._decisions
        ]
        return stamped, states

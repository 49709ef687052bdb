"""The tables of the write path in memory, beside the products: ledger, stored answers, accepted writes."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

from app.cache.history import hash_of
from app.cache.ports import State
from app.products.source import row_of, state_of
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.rows import Row, Transaction

MOMENT = datetime(2026, 1, 31, 9, 5, tzinfo=UTC)
"""The time of everything: no rule here depends on it."""


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """A row of ``accepted_writes``."""

    seq: int
    caller: str
    key: str
    request_hash: bytes
    product_ids: Sequence[str]
    sent: tuple[Any, ...]
    """Operation, target, conditions, body, request id."""
    accepted_at: float
    failure: str | None = None


class ProductPostgres(MemoryPostgres):
    """The primary with the tables of the write path: ledger, stored answers, accepted writes."""

    def __init__(self, now: Callable[[], float], system: str = "7000000000000000001") -> None:
        super().__init__(now, system)
        self.accepted: dict[int, AcceptedRow] = {}
        self.answers: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.movements: list[dict[str, Any]] = []
        self.next_seq = 1
        self._locks: dict[object, Transaction] = {}

    def create(self, key: str, stock: int) -> None:
        """Have a product, as a committed transaction would leave it."""
        self.rows[key] = Row(1, json.dumps(["Mug", 100, stock, 0]), deleted=False, changed_xid=self.next_xid)
        self._record(key, self.rows[key])
        self.movements.append({"id": key, "version": 1, "line": 0, "delta": stock, "reference": None})
        self.next_xid += 1

    def try_lock(self, transaction: Transaction, name: object) -> bool:
        """Take a lock until the end of the transaction; ``False`` if another one has it."""
        holder = self._locks.get(name)
        if holder is not None and holder is not transaction and not holder.over:
            return False
        self._locks[name] = transaction
        return True

    def waiting(self) -> list[AcceptedRow]:
        """Return the accepted writes that are not decided, the lowest number first."""
        return [row for _, row in sorted(self.accepted.items()) if row.failure is None]

    def related(self, rows: Sequence[AcceptedRow], ids: Iterable[str], sent: set[tuple[str, str]]) -> list[AcceptedRow]:
        """Return the rows that are connected with products or keys by the products that they name."""
        found = {row.seq for row in rows if (row.caller, row.key) in sent}
        names = {*ids, *(name for row in rows if row.seq in found for name in row.product_ids)}
        while more := [row for row in rows if row.seq not in found and not names.isdisjoint(row.product_ids)]:
            found |= {row.seq for row in more}
            names |= {name for row in more for name in row.product_ids}
        return [row for row in rows if row.seq in found]

    def remove(self, seqs: Sequence[int]) -> None:
        """Delete the rows that a transaction decided; it has them locked."""
        for seq in seqs:
            self.accepted.pop(seq, None)

    @override
    def state(self, key: str) -> State:
        self.answer()
        self.admit(key)
        return state_of(row_of(key, columns_of(self.rows.get(key))), self.epoch)

    @override
    def was_committed(self, state: State) -> bool:
        content = self.ledger.get((hash_of(state.epoch), state.key, state.version))
        if content is None:
            return super().was_committed(state)
        row = Row(state.version, content, deleted=False, changed_xid=0)
        return state == state_of(row_of(state.key, columns_of(row)), state.epoch)


def columns_of(row: Row | None) -> tuple[Any, ...]:
    """Return the columns of a product as the queries do: name to reorder point, version, and the three times."""
    if row is None:
        return (None,) * 8
    return (*json.loads(row.content), row.version, MOMENT, MOMENT, MOMENT if row.deleted else None)

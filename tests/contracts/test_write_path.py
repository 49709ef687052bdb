"""The contract of the statements of the write path: the tables in memory, on which the simulation plays, and PostgreSQL."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
import pytest

from app.cache.history import History
from app.cache.ports import Value
from app.postgres.database import Database
from app.postgres.errors import TransactionConflict
from app.products import accepted_queries, queries
from app.products.commands import Adjust, Effect
from app.products.decision import Done, Postponed, Repeated
from app.products.errors import Refused
from app.products.idempotency import Answer, IdempotencyKey, Origin, WriteRequest
from app.products.product import Line, Reason
from app.products.reservation import Reservation
from app.products.transactions import ProductTransactions
from tests.fakes.product_tables import ProductPostgres
from tests.fakes.wire import Direct
from tests.fakes.write_path import MemoryDatabase
from tests.limits import open_database

STOCK = 10
_CREATE = "INSERT INTO products (id, name, price_cents, stock) VALUES (%s, 'Mug', 100, %s)"


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables, with the products a, b and c."""

    database: Database

    async def accept(self, *writes: tuple[str, str]) -> None:
        """Accept writes, each a key and the ids of its products."""
        empty = [""] * len(writes)
        given = {
            "callers": ["till"] * len(writes),
            "keys": [key for key, _ in writes],
            "hashes": [key.encode() for key, _ in writes],
            "product_ids": [ids for _, ids in writes],
            "operations": empty,
            "targets": empty,
            "conditions": empty,
            "bodies": [b""] * len(writes),
            "request_ids": empty,
        }
        async with self.database.writes.session() as session:
            await session.rows("BEGIN")
            await session.commit((accepted_queries.ACCEPT, given))

    async def rows(self, statement: LiteralString, **given: object) -> Sequence[Any]:
        """Run one statement by itself."""
        async with self.database.writes.session() as session:
            return await session.rows(statement, given)


@pytest.fixture
async def tables(postgres_at: tuple[str, str] | None) -> AsyncIterator[Tables]:
    if postgres_at is None:
        postgres = ProductPostgres(time.monotonic)
        for key in "abc":
            postgres.create(key, STOCK)
        yield Tables(cast("Database", cast("Any", MemoryDatabase(postgres, Direct(), lambda: 0.0))))
        return
    async with await psycopg.AsyncConnection.connect(postgres_at[0], autocommit=True) as connection:
        await connection.cursor().executemany(_CREATE, [(key, STOCK) for key in "abc"])
    database = open_database(postgres_at[0])
    yield Tables(database)
    await database.close()


def taken(rows: Sequence[Any]) -> list[tuple[str, bool]]:
    """The keys of accepted writes, and whether somebody else has them."""
    return [(key, held) for held, _seq, _caller, key, *_ in rows]


async def test_accepted_rows_are_taken_once(tables: Tables) -> None:
    """Rows that one transaction has locked are held for another, and only one transaction is the applier."""
    await tables.accept(("1", "a b"), ("2", "b"), ("3", "c"))
    lowest = (accepted_queries.TAKE_LOWEST, {"limit": 10})
    async with tables.database.writes.session() as one, tables.database.writes.session() as two:
        before = {"ids": ["b"], "callers": [], "keys": [], "limit": 10}
        _, first = await one.pipeline(("BEGIN", None), (accepted_queries.TAKE_BEFORE, before))
        assert taken(first) == [("1", False), ("2", False)]
        assert [list(ids) for _, _, _, _, _, ids, *_ in first] == [["a", "b"], ["b"]]
        _, second = await two.pipeline(("BEGIN", None), lowest)
        assert taken(second) == [("1", True), ("2", True), ("3", False)]
        assert await tables.rows(accepted_queries.TAKE_LOWEST, limit=10) == []
        await one.commit((accepted_queries.APPLIED, {"seqs": [first[0][1]]}))
        await two.rows("COMMIT")
    assert taken(await tables.rows(accepted_queries.TAKE_LOWEST, limit=1)) == [("2", False)]
    assert taken(await tables.rows(accepted_queries.TAKE_LOWEST, limit=10)) == [("2", False), ("3", False)]


async def test_rows_before_a_direct_write(tables: Tables) -> None:
    """They are those of its products, of its key, and those that share a product with one of them, the lowest first."""
    await tables.accept(("1", "a b"), ("2", "c"), ("3", "b c"), ("4", "d"))

    async def before(ids: list[str], keys: list[str], limit: int = 10) -> list[tuple[str, bool]]:
        given = {"ids": ids, "callers": ["till"] * len(keys), "keys": keys, "limit": limit}
        return taken(await tables.rows(accepted_queries.TAKE_BEFORE, **given))

    assert await before(["a"], []) == [("1", False), ("2", False), ("3", False)]
    assert await before(["a"], [], 2) == [("1", False), ("2", False)]
    assert await before(["z"], ["4"]) == [("4", False)]
    assert await before([], ["2"]) == [("1", False), ("2", False), ("3", False)]
    assert await before(["z"], []) == []


async def test_row_that_failed(tables: Tables) -> None:
    """It is kept with its reason, and nobody takes it or waits for it."""
    await tables.accept(("1", "a"), ("2", "a"))
    [(_, seq, *_), _] = await tables.rows(accepted_queries.TAKE_LOWEST, limit=2)
    marked = {"seqs": [seq, seq + 1_000], "failures": ["broken", "unknown"]}
    assert len(await tables.rows(accepted_queries.FAILED, **marked)) == 1
    assert await tables.rows(accepted_queries.FAILED, **marked) == []
    assert taken(await tables.rows(accepted_queries.TAKE_LOWEST, limit=10)) == [("2", False)]
    found = await tables.rows(accepted_queries.ACCEPTED, callers=["till"] * 3, keys=["1", "2", "3"])
    assert sorted((key, failure) for _, key, _, failure in found) == [("1", "broken"), ("2", None)]
    [(rows, oldest_s, failed, newest)] = await tables.rows(accepted_queries.BACKLOG, limit=10)
    assert (rows, failed, newest) == (1, 1, seq + 1)
    assert 0 <= oldest_s < 60


async def test_uncommitted_row_is_not_seen(tables: Tables) -> None:
    """A row with a lower number may be committed after one with a higher number was taken."""
    row = {"callers": ["till"], "keys": ["0"], "hashes": [b""], "product_ids": ["a"], "bodies": [b""]}
    further = {name: [""] for name in ("operations", "targets", "conditions", "request_ids")}
    async with tables.database.writes.session() as session:
        await session.pipeline(("BEGIN", None), (accepted_queries.ACCEPT, row | further))
        await tables.accept(("1", "a"))
        assert taken(await tables.rows(accepted_queries.TAKE_LOWEST, limit=10)) == [("1", False)]
        await session.commit()
    assert taken(await tables.rows(accepted_queries.TAKE_LOWEST, limit=10)) == [("0", False), ("1", False)]


def receipt(key: str, *ids: str) -> WriteRequest:
    """A unit more of each product, under a key."""

    def render(result: Sequence[Effect] | Reservation | Refused) -> Answer:
        assert not isinstance(result, Reservation | Refused)
        return Answer(200, b" ".join(f"{effect.row.id}@{effect.row.version}".encode() for effect in result))

    command = Adjust([Line(product_id, 1) for product_id in ids], Reason.RECEIPT, key)
    return WriteRequest(command, Origin(None, None, IdempotencyKey("till", key, key.encode(), render)))


async def test_shipped_transactions(tables: Tables) -> None:
    """An adjustment changes rows and ledger, its answer is kept, and its repetition is told that."""
    transactions = ProductTransactions(tables.database)
    for version in (2, 3):
        committed = await transactions.commit([receipt(str(version), "b", "a")])
        [done] = committed.decisions
        assert isinstance(done, Done)
        assert [(effect.row.id, effect.row.version) for effect in done.effects] == [("b", version), ("a", version)]
        assert [(state.key, state.version) for state in committed.states] == [("a", version), ("b", version)]
        assert all(
            isinstance(state, Value) and b'"stock":%d' % (8 + version + 1) in state.payload for state in committed.states
        )
    [again] = (await transactions.commit([receipt("2", "b", "a")])).decisions
    assert isinstance(again, Repeated)
    assert (again.answer.body, list(again.product_ids)) == (b"b@2 a@2", ["b", "a"])
    assert await tables.rows(queries.NEWEST_MOVEMENTS, ids=["a", "z"]) == [("a", 3), ("z", 0)]


async def test_changes_that_are_committed_at_once(tables: Tables) -> None:
    """A write without a key, once the epoch is known: its rows are those of before, and so is what it does to the ledger."""
    history = History()
    transactions = ProductTransactions(tables.database, history=history)
    for version in (2, 3):
        command = Adjust([Line("a", 1)], Reason.RECEIPT)
        committed = await transactions.commit([WriteRequest(command)])
        [done] = committed.decisions
        assert isinstance(done, Done)
        assert [(effect.row.version, effect.recorded_at is not None) for effect in done.effects] == [(version, True)]
        assert [(state.key, state.version, state.epoch) for state in committed.states] == [("a", version, history.current)]
    assert await tables.rows(queries.NEWEST_MOVEMENTS, ids=["a"]) == [("a", 3)]


async def test_what_must_not_be_committed(tables: Tables) -> None:
    """In another epoch than expected, or with an entry that is there already: the statement fails, and COMMIT is skipped."""
    entry = {"id": "a", "line": 0, "delta": 1, "stock": 11, "reason": "receipt", "reserved_delta": 0, "reserved": 0}

    def recorded(version: int) -> tuple[str, dict[str, object]]:
        return queries.RECORD, {"rows": json.dumps([entry | {"version": version}]), "count": 1}

    elsewhere = (queries.READ_BACK, {"ids": ["a"], "knows": 3, "epoch": "another"})
    for statements in ([recorded(2), elsewhere], [recorded(2), recorded(1)]):
        async with tables.database.writes.session() as session:
            await session.pipeline(("BEGIN", None), (queries.LOCK, {"ids": ["a"]}))
            with pytest.raises(TransactionConflict):
                await session.commit(*cast("Any", statements))
        assert await tables.rows(queries.NEWEST_MOVEMENTS, ids=["a"]) == [("a", 1)]


async def test_row_that_somebody_holds(tables: Tables) -> None:
    """A write of it is postponed, as is one whose key somebody else carries out; the rest of the batch is not."""
    transactions = ProductTransactions(tables.database)
    async with tables.database.writes.session() as session:
        await session.pipeline(
            ("BEGIN", None),
            (queries.LOCK, {"ids": ["a"]}),
            (queries.LOCK_KEYS, {"callers": ["till"], "keys": ["taken"]}),
        )
        requests = [receipt("1", "a"), receipt("taken", "b"), receipt("2", "c")]
        held, taken_key, done = (await transactions.commit(requests)).decisions
        await session.rows("COMMIT")
    assert held == Postponed(["a"])
    assert taken_key == Postponed()
    assert isinstance(done, Done)

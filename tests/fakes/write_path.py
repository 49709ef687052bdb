"""The statements of the write path in memory, and the connections over which they are sent.

The shipped transactions run over it as they are. A round trip has several statements, and others may come between two of them,
as on a server. A lock that somebody else holds is refused at once, as after a timeout.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from app.cache.postgres.table_queries import EPOCH
from app.postgres.errors import CommitUnknown, ConnectionLost, DatabaseError, DatabaseFailed, LockTimeout, TransactionConflict
from app.products import accepted_queries, queries
from tests.fakes.product_tables import MOMENT, AcceptedRow, ProductPostgres, columns_of
from tests.fakes.rows import Aborted, Refused, Row, Transaction
from tests.fakes.source import ROLLBACK_AFTER_S
from tests.fakes.wire import Wire

Result = TypeVar("Result")
Rows = list[Any]
Parameters = Mapping[str, Any]
IDLE_S = 2.0
"""How long a transaction may be idle. Otherwise one whose client died before its first answer would keep its locks."""
OPERATOR = "psql"


class _Backend:
    """The server's end of one connection: it carries out statements, one after another."""

    def __init__(self, postgres: ProductPostgres, client: str) -> None:
        self._postgres = postgres
        self._client = client
        self.transaction: Transaction | None = None
        """The transaction that was begun and not committed; it may have been rolled back meanwhile."""
        self._at_commit: list[Callable[[], None]] = []

    def execute(self, statement: str, parameters: Parameters) -> Rows:
        """Carry one statement out, in a transaction of its own if none is open."""
        if statement == "BEGIN":
            self.transaction, self._at_commit = self._postgres.begin(self._client), []
            return []
        if statement == "COMMIT":
            self._commit()
            return []
        if statement == "ROLLBACK":
            assert self.transaction is not None
            self._postgres.roll_back(self.transaction)
            self.transaction = None
            return []
        alone = self.transaction is None
        if alone:
            self.execute("BEGIN", {})
        assert self.transaction is not None
        self._postgres._check(self.transaction)
        rows = _HANDLERS[statement](self, parameters)
        if alone:
            self._commit()
        return rows

    def _commit(self) -> None:
        assert self.transaction is not None
        self._postgres.commit(self.transaction)
        self.transaction = None
        for change in self._at_commit:
            change()

    def _lock(self, *names: object) -> None:
        assert self.transaction is not None
        if not all(self._postgres.try_lock(self.transaction, name) for name in names):
            raise LockTimeout(f"somebody else has {names}")

    def _free(self, name: object) -> bool:
        assert self.transaction is not None
        return self._postgres.try_lock(self.transaction, name)

    def _row(self, key: str) -> Row | None:
        assert self.transaction is not None
        return self.transaction.changed.get(key, self._postgres.rows.get(key))

    def _put(self, key: str, version: int, columns: Sequence[Any]) -> None:
        transaction, postgres = self.transaction, self._postgres
        assert transaction is not None
        if transaction.xid is None:
            transaction.xid, postgres.next_xid = postgres.next_xid, postgres.next_xid + 1
        transaction.changed[key] = Row(version, json.dumps(list(columns)), deleted=False, changed_xid=transaction.xid)

    def nothing(self, _: Parameters) -> Rows:
        return []

    def wait(self, given: Parameters) -> Rows:
        self._lock(*(("row", key) for key in given["ids"] if key in self._postgres.rows))
        return []

    def lock_keys(self, given: Parameters) -> Rows:
        return [(caller, key, self._free(("key", caller, key))) for caller, key in _sent(given)]

    def stored_answers(self, given: Parameters) -> Rows:
        answers = self._postgres.answers
        return [(*name, *answers[name]) for name in _sent(given) if name in answers]

    def lock(self, given: Parameters) -> Rows:
        found = [key for key in sorted(given["ids"]) if key in self._postgres.rows]
        free = [key for key in found if self._free(("row", key))]
        held = [(True, key, *(None,) * 10) for key in found if key not in free]
        return [*((False, key, *columns_of(self._row(key)), None) for key in free), *held]

    def newest_movements(self, given: Parameters) -> Rows:
        made = self._postgres.movements
        return [(key, max((row["version"] for row in made if row["id"] == key), default=0)) for key in given["ids"]]

    def record(self, given: Parameters) -> Rows:
        postgres, rows = self._postgres, json.loads(given["rows"])
        known = {(row["id"], row["version"], row["line"]) for row in postgres.movements}
        new = [row for row in rows if (row["id"], row["version"], row["line"]) not in known]
        self._lock(*(("movement", row["id"], row["version"], row["line"]) for row in new))
        _require(len(new) == given["count"])
        self._at_commit.append(lambda: postgres.movements.extend(new))
        return [(MOMENT, True)]

    def update(self, given: Parameters) -> Rows:
        for row in json.loads(given["rows"]):
            self._put(row["id"], row["version"], [row["name"], row["price"], row["stock"], row["reorder_point"]])
        return []

    def read_back(self, given: Parameters) -> Rows:
        epoch = self._postgres.tell_epoch()
        _require(given["epoch"] in ("", epoch))
        return [(epoch, key, *columns_of(self._row(key))) for key in given["ids"]]

    def epoch(self, _: Parameters) -> Rows:
        return [(self._postgres.tell_epoch(),)]

    def store_answer(self, given: Parameters) -> Rows:
        names = ("request_hash", "status", "body", "etag", "location", "product_ids")
        name, answer = (given["caller"], given["key"]), tuple(given[column] for column in names)
        self._at_commit.append(lambda: self._postgres.answers.update({name: answer}))
        return []

    def take_lowest(self, given: Parameters) -> Rows:
        return self._take(self._postgres.waiting()[: given["limit"]]) if self._free("applier") else []

    def take_before(self, given: Parameters) -> Rows:
        postgres = self._postgres
        return self._take(postgres.related(postgres.waiting(), given["ids"], set(_sent(given)))[: given["limit"]])

    def _take(self, rows: Sequence[AcceptedRow]) -> Rows:
        return [
            (not self._free(("accepted", row.seq)), row.seq, row.caller, row.key, row.request_hash, row.product_ids, *row.sent)
            for row in rows
        ]

    def applied(self, given: Parameters) -> Rows:
        self._at_commit.append(lambda: self._postgres.remove(given["seqs"]))
        return []

    def failed(self, given: Parameters) -> Rows:
        accepted = self._postgres.accepted
        wanted = zip(given["seqs"], given["failures"], strict=True)
        marked = [(seq, why) for seq, why in wanted if seq in accepted and accepted[seq].failure is None]
        self._lock(*(("accepted", seq) for seq, _ in marked))
        failed = {seq: replace(accepted[seq], failure=why) for seq, why in marked}
        self._at_commit.append(partial(accepted.update, failed))
        return [(1,) for _ in marked]

    def find_accepted(self, given: Parameters) -> Rows:
        sent = set(_sent(given))
        rows = (row for row in self._postgres.accepted.values() if (row.caller, row.key) in sent)
        return [(row.caller, row.key, row.request_hash, row.failure) for row in rows]

    def accept(self, given: Parameters) -> Rows:
        postgres = self._postgres
        further = ("operations", "targets", "conditions", "bodies", "request_ids")
        for place, (caller, key) in enumerate(_sent(given)):
            ids, sent = given["product_ids"][place].split(), tuple(given[name][place] for name in further)
            row = AcceptedRow(postgres.next_seq, caller, key, given["hashes"][place], ids, sent, postgres.now())
            postgres.next_seq += 1
            self._at_commit.append(partial(postgres.accepted.__setitem__, row.seq, row))
        return []

    def backlog(self, _: Parameters) -> Rows:
        postgres = self._postgres
        rows = postgres.waiting()
        oldest_s = postgres.now() - rows[0].accepted_at if rows else 0.0
        return [(len(rows), oldest_s, len(postgres.accepted) - len(rows), max(postgres.accepted, default=None))]


_HANDLERS: Mapping[str, Callable[[_Backend, Parameters], Rows]] = {
    queries.LOCK_TIMEOUT: _Backend.nothing,
    queries.WAIT: _Backend.wait,
    queries.LOCK_KEYS: _Backend.lock_keys,
    queries.STORED_ANSWERS: _Backend.stored_answers,
    queries.LOCK: _Backend.lock,
    queries.NEWEST_MOVEMENTS: _Backend.newest_movements,
    queries.RECORD: _Backend.record,
    queries.UPDATE: _Backend.update,
    queries.READ_BACK: _Backend.read_back,
    queries.STORE_ANSWER: _Backend.store_answer,
    EPOCH: _Backend.epoch,
    accepted_queries.TAKE_LOWEST: _Backend.take_lowest,
    accepted_queries.TAKE_BEFORE: _Backend.take_before,
    accepted_queries.APPLIED: _Backend.applied,
    accepted_queries.FAILED: _Backend.failed,
    accepted_queries.ACCEPTED: _Backend.find_accepted,
    accepted_queries.ACCEPT: _Backend.accept,
    accepted_queries.BACKLOG: _Backend.backlog,
}
"""The statements that are known here. Another one fails, so that nobody takes its absence for a success."""


def _require(holds: bool) -> None:  # noqa: FBT001 - as in SQL
    if not holds:
        raise Aborted("larder_require")


def _sent(given: Parameters) -> list[tuple[str, str]]:
    return list(zip(given["callers"], given["keys"], strict=True))


class MemorySession:
    """A connection in use, with the methods of ``Session``."""

    def __init__(self, postgres: ProductPostgres, wire: Wire, pause_s: Callable[[], float]) -> None:
        self._wire = wire
        self._pause_s = pause_s
        self.backend = _Backend(postgres, wire.client)
        self._idle: asyncio.TimerHandle | None = None

    async def rows(self, statement: str, parameters: Parameters | None = None) -> Rows:
        """Run one statement and return its rows."""
        [rows] = await self.pipeline((statement, parameters))
        return rows

    async def pipeline(self, *statements: tuple[str, Parameters | None]) -> list[Rows]:
        """Run several statements in one round trip and return the rows of each."""
        return await self._send("statements", statements)

    async def commit(self, *last: tuple[str, Parameters | None]) -> list[Rows]:
        """Run the last statements of a transaction and commit it, in one round trip; return the rows of each."""
        try:
            return (await self._send("commit", (*last, ("COMMIT", None))))[:-1]
        except ConnectionLost as error:
            raise CommitUnknown(f"the answer to COMMIT was lost: {error}") from error

    async def _send(self, name: str, statements: Sequence[tuple[str, Parameters | None]]) -> list[Rows]:
        try:
            return await self._wire.call(name, lambda: self._carry_out(statements))
        except DatabaseError:
            raise
        except Aborted as error:
            raise TransactionConflict(str(error)) from error
        except Refused as error:
            raise DatabaseFailed(str(error)) from error
        except Exception as error:
            raise ConnectionLost(str(error)) from error

    def _carry_out(self, statements: Sequence[tuple[str, Parameters | None]]) -> "asyncio.Future[list[Rows]]":
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Rows]] = loop.create_future()
        found: list[Rows] = []
        if self._idle is not None:
            self._idle.cancel()

        def step() -> None:
            statement, parameters = statements[len(found)]
            try:
                found.append(self.backend.execute(statement, parameters or {}))
            except Exception as error:  # noqa: BLE001 - whatever the server answers, its client gets
                self.roll_back()
                done.set_exception(error)
                return
            if len(found) == len(statements):
                self._idle = loop.call_later(IDLE_S, self.roll_back, context=Context())
                done.set_result(found)
            else:
                loop.call_later(self._pause_s(), step, context=Context())

        step()
        return done

    def roll_back(self) -> None:
        """Roll back what is open."""
        if self.backend.transaction is not None:
            self.backend._postgres.roll_back(self.backend.transaction)


class MemoryShare:
    """A share of the connections, with the methods of ``Pool`` that the write path uses."""

    def __init__(self, postgres: ProductPostgres, wire: Wire, pause_s: Callable[[], float]) -> None:
        self._postgres = postgres
        self._wire = wire
        self._pause_s = pause_s

    @asynccontextmanager
    async def session(self) -> AsyncIterator[MemorySession]:
        """Lend a connection. A transaction that is left open is rolled back; after a lost connection, a little later."""
        session = MemorySession(self._postgres, self._wire, self._pause_s)
        try:
            yield session
        except BaseException as error:
            if isinstance(error, DatabaseError) and not isinstance(error, ConnectionLost | CommitUnknown):
                session.roll_back()
            else:
                asyncio.get_running_loop().call_later(ROLLBACK_AFTER_S, session.roll_back, context=Context())
            raise
        session.roll_back()

    async def run(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        """Run ``work`` with a connection, and once more with a new one if the first was dead."""
        try:
            async with self.session() as session:
                return await work(session)
        except ConnectionLost:
            pass
        async with self.session() as session:
            return await work(session)


class MemoryDatabase:
    """The shares of one process that the write path uses."""

    def __init__(self, postgres: ProductPostgres, wire: Wire, pause_s: Callable[[], float]) -> None:
        self.writes = self.lists = MemoryShare(postgres, wire, pause_s)

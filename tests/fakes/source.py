"""The source's ports over an in-memory PostgreSQL, and the transactions of writers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import TypeVar

from app.cache.errors import SourceUnavailable
from app.cache.ports import (
    Announced,
    AuditProgress,
    AuditSource,
    Deferred,
    FenceLimits,
    HistorySource,
    Snapshot,
    Source,
    State,
    Watermark,
)
from tests.fakes.postgres import MemoryPostgres
from tests.fakes.rows import NAMESPACE, Aborted, Change, Moment, Refused, Transaction, table_of
from tests.fakes.wire import Disconnected, Wire

Reply = TypeVar("Reply")


class CommitUnknown(Exception):
    """The answer to COMMIT was lost: the transaction happened whole or not at all."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a writer's transaction gives to ``WriteThrough.write``."""

    states: Sequence[State]


class MemorySource(Source, HistorySource):
    """The ports ``Source`` and ``HistorySource``.

    ``running`` counts the loads under way for each key, ``crowded`` has the keys that were seen with two (G5).
    """

    def __init__(self, postgres: MemoryPostgres, wire: Wire, namespace: str = NAMESPACE) -> None:
        self._postgres = postgres
        self._wire = wire
        self._namespace = namespace
        self.running: dict[str, int] = {}
        self.crowded: list[str] = []
        self.loads = 0

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        self.loads += 1
        for key in keys:
            self.running[key] = self.running.get(key, 0) + 1
            if self.running[key] > 1:
                self.crowded.append(key)
        try:
            return await self._ask("load", lambda: {key: self._postgres.state(key) for key in keys})
        finally:
            for key in keys:
                self.running[key] -= 1

    async def tell_epoch(self) -> str:
        return await self._ask("epoch", lambda: self._postgres.tell_epoch(self._namespace))

    async def standing(self) -> AuditProgress:
        return await self._ask("standing", lambda: self._postgres.standing(self._namespace))

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        return await self._ask("adopt", lambda: self._postgres.adopt(self._namespace, fence_ttl_max_ms / 1_000))

    async def _ask(self, name: str, question: Callable[[], Reply]) -> Reply:
        try:
            return await self._wire.call(name, question)
        except Exception as error:
            raise SourceUnavailable(f"{name}: {error}") from error


class MemoryAuditSource(AuditSource):
    """The ``AuditSource`` port: one session, which ends when its server restarts or a command fails."""

    def __init__(self, postgres: MemoryPostgres, wire: Wire, namespace: str = NAMESPACE) -> None:
        self._postgres = postgres
        self._wire = wire
        self._namespace = namespace
        self._incarnation = postgres.incarnation
        self._lost = False
        self._epoch = ""

    async def tell_epoch(self) -> str:
        return await self._ask("epoch", lambda: self._postgres.tell_epoch(self._namespace))

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        announced = await self._ask("announce", lambda: self._postgres.announce(self._namespace, server, limits))
        self._epoch = announced.epoch
        return announced

    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        try:
            moment, rival = await self._ask("snapshot", lambda: self._take(limits))
            async with aclosing(self._pages(moment, since, page_rows)) as pages:
                yield Snapshot(moment.epoch, moment.xmin, pages, rival)
        finally:
            self._postgres.let_go(self._wire.client)

    async def complete(self, cycle: int) -> None:
        await self._ask("complete", lambda: self._postgres.complete(self._namespace, cycle, self._epoch))

    def _in_session(self) -> bool:
        return self._incarnation == self._postgres.incarnation

    def _take(self, limits: FenceLimits) -> tuple[Moment, str]:
        if self._lost:
            raise Disconnected("the client is gone")
        self._postgres.admit(self._namespace)
        return self._postgres.take_snapshot(self._wire.client), self._postgres.rival(self._namespace, limits)

    async def _pages(
        self, moment: Moment, since: Watermark | None, page_rows: int
    ) -> AsyncGenerator[Sequence[tuple[str, int]], None]:
        if since is None or since.xid is None or since.epoch != moment.epoch:
            return
        xid = since.xid
        rows = await self._ask("page", lambda: changes_of(self._postgres, self._namespace, moment, xid))
        for start in range(0, len(rows), page_rows):
            yield rows[start : start + page_rows]

    async def _ask(self, name: str, question: Callable[[], Reply]) -> Reply:
        def in_session() -> Reply:
            if not self._in_session():
                raise Disconnected("the session is gone")
            return question()

        if self._lost:
            raise SourceUnavailable(f"{name}: this audit's session is lost")
        try:
            return await self._wire.call(name, in_session)
        except (Disconnected, Refused) as error:
            self._lost = True
            raise SourceUnavailable(f"{name}: {error}") from error
        except BaseException:
            self._lost = True
            raise


def changes_of(postgres: MemoryPostgres, namespace: str, moment: Moment, xid: int) -> list[tuple[str, int]]:
    """Return keys and versions of the rows of a namespace's table that a transaction from ``xid`` on changed."""
    table = table_of(namespace)
    return [(key, version) for key, version in postgres.changed_since(moment, xid) if table_of(key) == table]


@asynccontextmanager
async def open_audit_source(
    postgres: MemoryPostgres, wire: Wire, namespace: str = NAMESPACE, kind: type[MemoryAuditSource] = MemoryAuditSource
) -> AsyncIterator[MemoryAuditSource]:
    """Open the source for one audit cycle."""
    yield kind(postgres, wire, namespace)


async def transact(
    postgres: MemoryPostgres,
    wire: Wire,
    changes: dict[str, Change],
    mark: str = "",
    check: Callable[[Sequence[State]], None] = lambda _: None,
) -> list[State]:
    """Run a writer's transaction; return the last state of every row named, as read back before COMMIT.

    ``check`` looks at them; what it raises rolls back.

    Raises:
        SourceUnavailable: it was rolled back.
        CommitUnknown: it was committed or rolled back.
    """
    transaction: Transaction | None = None
    states: list[State] = []
    committing = False
    try:
        transaction = begun = await wire.call("begin", lambda: postgres.begin(wire.client, mark))
        for key in sorted(changes):
            state: State = await wire.call("change", _changing(postgres, begun, key, changes[key]))
            states.append(state)
        check(states)
        committing = True
        await wire.call("commit", lambda: postgres.commit(begun))
    except BaseException as error:
        aborted = committing and isinstance(error, Aborted)
        if transaction is not None and not aborted:
            # The client closes its connection. The server rolls back, in its own context, unless the commit comes first.
            asyncio.get_running_loop().call_later(ROLLBACK_AFTER_S, postgres.roll_back, transaction, context=Context())
        if not isinstance(error, Exception):
            raise
        if committing and not aborted:
            raise CommitUnknown(str(error)) from error
        raise SourceUnavailable(f"rolled back: {error}") from error
    return states


def _changing(
    postgres: MemoryPostgres, transaction: Transaction, key: str, change: Change
) -> "Callable[[], State | asyncio.Future[State]]":
    def apply() -> "State | asyncio.Future[State]":
        postgres.admit(key)
        return postgres.change(transaction, key, change)

    return apply


ROLLBACK_AFTER_S = 1.0
"""Seconds until a server notices that its client is gone."""

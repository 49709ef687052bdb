"""Several tables in PostgreSQL as the source of audit cycles that share one session."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from typing_extensions import override

from ...postgres.database import Database, Session
from ...postgres.errors import DatabaseError, was_answered
from ..entity import Entity
from ..errors import SourceUnavailable
from ..ports import Announced, AnnounceRequest, Deferred, FirstPage, SharedAuditSource, SnapshotRequest
from . import table_queries
from .table_audit import announcement, limit_parameters, snapshot_columns

Request = TypeVar("Request", bound=tuple[Any, ...])
Result = TypeVar("Result")

_NOTHING = str(2**64 - 1)
"""A transaction id that no row has."""


@asynccontextmanager
async def open_shared_audit(database: Database, entities: Mapping[str, Entity]) -> AsyncIterator["TablesAudit"]:
    """Open a session for one cycle of several namespaces. Raises ``SourceUnavailable`` if there is none."""
    try:
        async with database.audit.session() as session:
            tables = TablesAudit(session, entities)
            yield tables
            if tables.lost is not None:
                raise tables.lost  # so that the connection, and all others to its server, are dropped
    except DatabaseError as error:
        raise SourceUnavailable(str(error)) from error


class TablesAudit(SharedAuditSource):
    """The ``SharedAuditSource`` port on one session.

    A statement that fails for all is sent again for each request by itself, so that a table that is locked or broken costs the
    others one more statement, once: its namespace then goes on alone.
    """

    def __init__(self, session: Session, entities: Mapping[str, Entity]) -> None:
        self._session = session
        self._entities = entities
        self._lock = asyncio.Lock()
        self._snapshots: list[str] = []
        """The snapshots of this cycle, in the order in which they were taken."""
        self._snapshot_of: dict[str, int] = {}
        """The place in that list of the snapshot that a namespace was audited in."""
        self.lost: DatabaseError | None = None
        """The error that ended the session, if it is over."""

    @override
    async def tell_epoch(self, namespace: str) -> str:
        try:
            async with self._lock:
                [[epoch]] = await self._session.rows(table_queries.EPOCH, table_queries.parameters(self._entities[namespace]))
        except DatabaseError as error:
            raise self._unavailable(error) from error
        return str(epoch)

    @override
    async def announce(self, requests: Sequence[AnnounceRequest]) -> Sequence[Announced | Deferred | Exception]:
        return await self._for_all(requests, self._announce)

    @override
    async def snapshot(self, requests: Sequence[SnapshotRequest]) -> Sequence[FirstPage | Exception]:
        return await self._for_all(requests, self._snapshot)

    @override
    async def complete(self, requests: Sequence[tuple[str, int, str]]) -> Sequence[Exception | None]:
        return await self._for_all(requests, self._complete)

    async def _for_all(
        self, requests: Sequence[Request], send: Callable[[Sequence[Request]], Awaitable[Sequence[Result | Exception]]]
    ) -> Sequence[Result | Exception]:
        async with self._lock:
            try:
                return await send(requests)
            except DatabaseError as error:
                unavailable = self._unavailable(error)
                if len(requests) == 1 or not was_answered(error):
                    return [unavailable] * len(requests)
            return [await self._alone(request, send) for request in requests]

    async def _alone(
        self, request: Request, send: Callable[[Sequence[Request]], Awaitable[Sequence[Result | Exception]]]
    ) -> Result | Exception:
        try:
            [result] = await send([request])
        except DatabaseError as error:
            return self._unavailable(error)
        return result

    def _unavailable(self, error: DatabaseError) -> SourceUnavailable:
        if not was_answered(error):
            self.lost = error
        unavailable = SourceUnavailable(str(error))
        unavailable.__cause__ = error
        return unavailable

    async def _announce(self, requests: Sequence[AnnounceRequest]) -> Sequence[Announced | Deferred | Exception]:
        members = [(self._entities[name], name) for name, _, _ in requests]
        servers = [server for _, server, _ in requests]
        # The limits are the process's, so they are the same for all.
        parameters = {**table_queries.array_parameters(members), "servers": servers, **limit_parameters(requests[0][2])}
        rows = await self._session.rows(table_queries.ANNOUNCE, parameters)
        return [_result(announcement, row, name) for row, (_, name) in zip(rows, members, strict=True)]

    async def _snapshot(self, requests: Sequence[SnapshotRequest]) -> Sequence[FirstPage | Exception]:
        """Take the snapshot and read the first page of each namespace, in one round trip and one transaction."""
        members = [(self._entities[name], name) for name, *_ in requests]
        _, _, limits, page_rows = requests[0]
        parameters = {**table_queries.array_parameters(members), "margin_s": limits.margin_ms / 1000}
        since = [watermark.xid if watermark is not None else None for _, watermark, *_ in requests]
        changes = table_queries.first_changes([entity for entity, _ in members])
        try:
            _, _, snapshots, changed, _ = await self._session.pipeline(
                ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", None),
                (table_queries.lock([entity for entity, _ in members], wait=False), None),
                (table_queries.SNAPSHOT, parameters),
                (changes, {"xids": [_NOTHING if xid is None else str(xid) for xid in since], "limit": page_rows + 1}),
                ("COMMIT", None),
            )
        except DatabaseError as error:
            if was_answered(error):
                await self._session.rows("ROLLBACK")
            raise
        self._snapshots.append(snapshots[0][0])
        self._snapshot_of |= {name: len(self._snapshots) - 1 for _, name in members}
        rows: list[list[tuple[str, int]]] = [[] for _ in requests]
        for number, key, version in changed:
            rows[number].append((key, version))
        return [
            _result(_first_page, row, found if len(found) <= page_rows else None)
            for row, found in zip(snapshots, rows, strict=True)
        ]

    async def _complete(self, requests: Sequence[tuple[str, int, str]]) -> Sequence[Exception | None]:
        parameters = {
            **table_queries.array_parameters([(self._entities[name], name) for name, _, _ in requests]),
            "cycles": [cycle for _, cycle, _ in requests],
            "epochs": [epoch for _, _, epoch in requests],
            "snapshot": self._oldest_snapshot([name for name, _, _ in requests]),
        }
        await self._session.rows(table_queries.COMPLETE, parameters)
        return [None] * len(requests)

    def _oldest_snapshot(self, names: Sequence[str]) -> str:
        """Return one snapshot for all namespaces, which contains nothing that another one lacks; empty if one had none."""
        places = [self._snapshot_of.get(name) for name in names]
        return self._snapshots[min(place for place in places if place is not None)] if None not in places else ""


def _first_page(row: Sequence[Any], rows: Sequence[tuple[str, int]] | None) -> FirstPage:
    xmin, epoch, rival = snapshot_columns(row)
    return FirstPage(epoch, xmin, rows, rival)


def _result(read: Callable[[Sequence[Any], Any], Result], row: Sequence[Any], argument: Any) -> Result | Exception:
    """Return what a row says, or why it says nothing."""
    try:
        return read(row, argument)
    except SourceUnavailable as error:
        return error

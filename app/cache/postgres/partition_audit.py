"""A table in PostgreSQL as the source of an audit cycle of all partitions of a namespace: the statements of one."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from typing_extensions import override

from ...postgres.database import Database, Session
from ...postgres.errors import DatabaseError
from ..entity import Entity
from ..errors import SourceUnavailable
from ..partition_ports import PartitionsAuditSource
from ..ports import Announced, Deferred, FenceLimits, Snapshot, Watermark
from . import table_queries
from .table_audit import TableAuditSource, announcement, limit_parameters


class PartitionAuditSources:
    """Opens the ``PartitionsAuditSource`` port, once for each cycle. ``rows`` are the partitions' audit rows."""

    def __init__(self, database: Database, entity: Entity, rows: Sequence[str]) -> None:
        self._database = database
        self._entity = entity
        self._rows = rows

    @asynccontextmanager
    async def open(self) -> AsyncIterator["PartitionsAudit"]:
        """Open a session for one cycle. Every error of PostgreSQL within it becomes ``SourceUnavailable``."""
        try:
            async with self._database.audit.session() as session:
                yield PartitionsAudit(session, self._entity, self._rows)
        except DatabaseError as error:
            raise SourceUnavailable(str(error)) from error


class PartitionsAudit(PartitionsAuditSource):
    """The ``PartitionsAuditSource`` port on one session. Each method except ``snapshot`` is one statement in autocommit."""

    def __init__(self, session: Session, entity: Entity, rows: Sequence[str]) -> None:
        self._session = session
        self._entity = entity
        self._rows = rows
        # The snapshot is that of one partition: it looks for rivals, which no sibling is.
        self._table = TableAuditSource(session, entity, rows[0])
        self._announced_epoch = ""

    @override
    async def tell_epoch(self) -> str:
        return await self._table.tell_epoch()

    @override
    async def announce(self, servers: Mapping[int, str], limits: FenceLimits) -> Mapping[int, Announced | Deferred]:
        parameters = {**self._members(list(servers)), "servers": list(servers.values()), **limit_parameters(limits)}
        rows = await self._session.rows(table_queries.ANNOUNCE, parameters)
        announced = {partition: announcement(row, self._rows[partition]) for partition, row in zip(servers, rows, strict=True)}
        self._announced_epoch = next(iter(announced.values())).epoch
        return announced

    @override
    async def count_changes(self, since: Watermark, upto: Watermark, most: int) -> int:
        parameters = {"since": str(since.xid), "upto": str(upto.xid), "most": most}
        [[count]] = await self._session.rows(table_queries.count_changes(self._entity), parameters)
        return int(count)

    @override
    def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AbstractAsyncContextManager[Snapshot]:
        return self._table.snapshot(since, limits, page_rows)

    @override
    async def complete(self, cycles: Mapping[int, int]) -> None:
        own = {"cycles": list(cycles.values()), "epochs": [self._announced_epoch] * len(cycles)}
        parameters = {**self._members(list(cycles)), **own, "snapshot": self._table.snapshot_text}
        await self._session.rows(table_queries.COMPLETE, parameters)

    def _members(self, partitions: Sequence[int]) -> dict[str, list[str]]:
        return table_queries.array_parameters([(self._entity, self._rows[partition]) for partition in partitions])

"""A table in PostgreSQL as the source of an audit cycle: one session from announcement to completion."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from psycopg.sql import SQL
from typing_extensions import override

from ...postgres.database import Database, Session
from ...postgres.errors import DatabaseError
from ..entity import Entity
from ..errors import SourceRefused, SourceUnavailable
from ..ports import Announced, AuditSource, Deferred, FenceLimits, Snapshot, Watermark
from . import table_queries


class TableAuditSources:
    """Opens the ``AuditSource`` port, once for each cycle."""

    def __init__(self, database: Database, entity: Entity, namespace: str) -> None:
        self._database = database
        self._entity = entity
        self._namespace = namespace

    @asynccontextmanager
    async def open(self) -> AsyncIterator["TableAuditSource"]:
        """Open a session for one cycle. Every error of PostgreSQL within it becomes ``SourceUnavailable``."""
        try:
            async with self._database.audit.session() as session:
                yield TableAuditSource(session, self._entity, self._namespace)
        except DatabaseError as error:
            raise SourceUnavailable(str(error)) from error


class TableAuditSource(AuditSource):
    """The ``AuditSource`` port on one session. Each method except ``snapshot`` is one statement in autocommit."""

    def __init__(self, session: Session, entity: Entity, namespace: str) -> None:
        self._session = session
        self._entity = entity
        self._namespace = namespace
        self._parameters = table_queries.array_parameters([(entity, namespace)])
        self._announced_epoch = ""
        self.snapshot_text = ""
        """The snapshot of this cycle, as ``complete`` passes it to the change feed."""

    @override
    async def tell_epoch(self) -> str:
        [[epoch]] = await self._session.rows(table_queries.EPOCH, table_queries.parameters(self._entity))
        return str(epoch)

    @override
    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        parameters = {**self._parameters, "servers": [server], **limit_parameters(limits)}
        [row] = await self._session.rows(table_queries.ANNOUNCE, parameters)
        announced = announcement(row, self._namespace)
        self._announced_epoch = announced.epoch
        return announced

    @override
    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        _, _, [row] = await self._session.pipeline(
            ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", None),
            (table_queries.lock([self._entity], wait=True), None),
            (table_queries.SNAPSHOT, {**self._parameters, "margin_s": limits.margin_ms / 1000}),
        )
        self.snapshot_text = row[0]
        xmin, epoch, rival = snapshot_columns(row)
        known = since if since is not None and since.xid is not None and since.epoch == epoch else None
        async with aclosing(self._pages(known, page_rows)) as pages:  # or the garbage collector ends it, some time
            yield Snapshot(epoch, xmin, pages, rival)
        await self._session.rows("COMMIT")

    @override
    async def complete(self, cycle: int) -> None:
        own = {"cycles": [cycle], "epochs": [self._announced_epoch], "snapshot": self.snapshot_text}
        parameters = {**self._parameters, **own}
        await self._session.rows(table_queries.COMPLETE, parameters)

    async def _pages(self, since: Watermark | None, page_rows: int) -> AsyncGenerator[Sequence[tuple[str, int]], None]:
        if since is None:
            return
        fetch = (SQL("FETCH {} FROM changes").format(page_rows), None)  # FETCH takes no parameters
        # One round trip opens the cursor and fetches the first page. Most cycles need no other: they find no change.
        changes = (table_queries.changes(self._entity), {"relation": self._entity.table, "xid": str(since.xid)})
        _, page = await self._session.pipeline(changes, fetch)
        while page:
            yield cast("Sequence[tuple[str, int]]", page)
            page = await self._session.rows(*fetch) if len(page) == page_rows else []


def limit_parameters(limits: FenceLimits) -> dict[str, float]:
    """Return the parameters of an announcement that say how long fences live, in seconds."""
    return {"ttl_s": limits.ttl_ms / 1000, "max_ttl_s": limits.ttl_max_ms / 1000, "margin_s": limits.margin_ms / 1000}


def announcement(row: Sequence[Any], namespace: str) -> Announced | Deferred:
    """Return what a row of ``ANNOUNCE`` says. Raises ``SourceRefused`` for a table that has no epoch now."""
    epoch, objection, cycle, other_s, rival, barred, incumbent = row
    if epoch is None:
        raise SourceRefused(objection)
    if cycle is None:
        return Deferred(_reason(namespace, rival, incumbent, barred=bool(barred)), epoch)
    return Announced(cycle, other_s, epoch)


def snapshot_columns(row: Sequence[Any]) -> tuple[int, str, str]:
    """Return xmin, epoch and rival of a row of ``SNAPSHOT``. Raises ``SourceRefused`` for a table that has no epoch now."""
    snapshot, epoch, objection, rival = row
    if epoch is None:
        raise SourceRefused(objection)
    return int(snapshot.partition(":")[0]), epoch, rival


def _reason(namespace: str, rival: str | None, incumbent: str | None, *, barred: bool) -> str:
    """Return why an announcement was refused, as a sentence for the log."""
    if rival:
        return (
            f"the cache namespace {rival} of the same table is trusted, {namespace} waits until it is no longer used;"
            " reads go to the database meanwhile. If it is an earlier release's, run larder migrate --finish when the last"
            " instance of that release is stopped"
        )
    if barred:
        return f"the cache namespace {namespace} is barred; reads go to the database until larder namespace unbar"
    return (
        f"the Redis server {incumbent} is trusted, this instance is connected to another one and waits until no fence"
        " of that server can be alive; reads go to the database meanwhile"
    )

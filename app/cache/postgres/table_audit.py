"""A table in PostgreSQL as the source of an audit cycle: one session from announcement to completion."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from psycopg.sql import SQL
from typing_extensions import override

from ...postgres.database import Database, Session
from ...postgres.errors import DatabaseError
from ..errors import SourceUnavailable
from ..ports import Announced, AuditSource, Deferred, FenceLimits, Snapshot, Watermark
from . import table_queries
from .table_queries import CachedTable


class TableAuditSources:
    """Opens the ``AuditSource`` port, once for each cycle."""

    def __init__(self, database: Database, table: CachedTable, namespace: str) -> None:
        self._database = database
        self._table = table
        self._namespace = namespace

    @asynccontextmanager
    async def open(self) -> AsyncIterator["TableAuditSource"]:
        """Open a session for one cycle. Every error of PostgreSQL within it becomes ``SourceUnavailable``."""
        try:
            async with self._database.audit.session() as session:
                yield TableAuditSource(session, self._table, self._namespace)
        except DatabaseError as error:
            raise SourceUnavailable(str(error)) from error


class TableAuditSource(AuditSource):
    """The ``AuditSource`` port on one session. Each method except ``snapshot`` is one statement in autocommit."""

    def __init__(self, session: Session, table: CachedTable, namespace: str) -> None:
        self._session = session
        self._table = table
        self._namespace = namespace
        self._parameters = {**table.parameters, "namespace": namespace}
        self._announced_epoch = ""

    @override
    async def tell_epoch(self) -> str:
        [[epoch]] = await self._session.rows(table_queries.EPOCH, self._table.parameters)
        return str(epoch)

    @override
    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        seconds = {
            "ttl_s": limits.ttl_ms / 1000,
            "max_ttl_s": limits.ttl_max_ms / 1000,
            "margin_s": limits.margin_ms / 1000,
        }
        parameters = {**self._parameters, "server": server, **seconds}
        [[epoch, cycle, other_s, rival, barred, incumbent]] = await self._session.rows(table_queries.ANNOUNCE, parameters)
        self._announced_epoch = epoch
        if cycle is None:
            return Deferred(self._reason(rival, incumbent, barred=bool(barred)), epoch)
        return Announced(cycle, other_s, epoch)

    @override
    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        # The table is locked before the snapshot is taken: after a TRUNCATE, an older snapshot finds no rows, but still reads
        # the old epoch.
        _, _, [[xmin, epoch, rival]] = await self._session.pipeline(
            ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", None),
            (self._table.named("LOCK TABLE {table} IN ACCESS SHARE MODE"), None),
            (table_queries.SNAPSHOT, {**self._parameters, "margin_s": limits.margin_ms / 1000}),
        )
        known = since if since is not None and since.xid is not None and since.epoch == epoch else None
        yield Snapshot(epoch, int(xmin), self._pages(known, page_rows), rival)
        await self._session.rows("COMMIT")

    @override
    async def complete(self, cycle: int) -> None:
        parameters = {"relation": self._table.name, "namespace": self._namespace}
        await self._session.rows(table_queries.COMPLETE, {**parameters, "cycle": cycle, "epoch": self._announced_epoch})

    def _reason(self, rival: str | None, incumbent: str | None, *, barred: bool) -> str:
        """Return why an announcement was refused, as a sentence for the log."""
        if rival:
            return (
                f"the cache namespace {rival} of the same table is trusted, {self._namespace} waits until it is no longer used;"
                " reads go to the database meanwhile"
            )
        if barred:
            return f"the cache namespace {self._namespace} is barred; reads go to the database until larder namespace unbar"
        return (
            f"the Redis server {incumbent} is trusted, this instance is connected to another one and waits until no fence"
            " of that server can be alive; reads go to the database meanwhile"
        )

    async def _pages(self, since: Watermark | None, page_rows: int) -> AsyncIterator[Sequence[tuple[str, int]]]:
        if since is None:
            return
        fetch = (SQL("FETCH {} FROM changes").format(page_rows), None)  # FETCH takes no parameters
        # One round trip opens the cursor and fetches the first page. Most cycles need no other: they find no change.
        changes = (self._table.named(table_queries.CHANGES), {"xid": str(since.xid)})
        _, page = await self._session.pipeline(changes, fetch)
        while page:
            yield cast("Sequence[tuple[str, int]]", page)
            page = await self._session.rows(*fetch) if len(page) == page_rows else []

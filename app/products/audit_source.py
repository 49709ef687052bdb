"""The catalogue as an audit cycle sees it: one PostgreSQL session from announcement to completion."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from psycopg.sql import SQL

from app.cache.errors import SourceUnavailable
from app.cache.ports import Announced, Deferred, FenceLimits, Snapshot, Watermark
from app.postgres.database import Database, Session
from app.postgres.errors import DatabaseError
from app.products import queries
from app.products.payload import SCHEMA


class ProductAuditSources:
    """Opens the ``AuditSource`` port, once for each cycle."""

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace

    @asynccontextmanager
    async def open(self) -> AsyncIterator["ProductAuditSource"]:
        """A session of its own. Whatever PostgreSQL fails with inside becomes ``SourceUnavailable``."""
        try:
            async with self._database.audit.session() as session:
                yield ProductAuditSource(session, self._namespace)
        except DatabaseError as error:
            raise SourceUnavailable(str(error)) from error


class ProductAuditSource:
    """The ``AuditSource`` port over one session."""

    def __init__(self, session: Session, namespace: str) -> None:
        self._session = session
        self._namespace = namespace
        self._announced_epoch = ""

    async def tell_epoch(self) -> str:
        """See ``AuditSource.tell_epoch``: one statement."""
        [[epoch]] = await self._session.rows(queries.EPOCH, {"knows": SCHEMA})
        return str(epoch)

    async def announce(self, server: str, limits: FenceLimits) -> Announced | Deferred:
        """See ``AuditSource.announce``: one statement in autocommit."""
        parameters = {
            "namespace": self._namespace,
            "server": server,
            "ttl_s": limits.ttl_ms / 1000,
            "max_ttl_s": limits.ttl_max_ms / 1000,
            "margin_s": limits.margin_ms / 1000,
            "knows": SCHEMA,
        }
        [[epoch, cycle, other_s, rival, barred, incumbent]] = await self._session.rows(queries.ANNOUNCE, parameters)
        self._announced_epoch = epoch
        if cycle is None:
            return Deferred(self._reason(rival, incumbent, barred=bool(barred)), epoch)
        return Announced(cycle, other_s, epoch)

    @asynccontextmanager
    async def snapshot(self, since: Watermark | None, limits: FenceLimits, page_rows: int) -> AsyncIterator[Snapshot]:
        """See ``AuditSource.snapshot``: one transaction, a cursor over the changed rows."""
        parameters = {"namespace": self._namespace, "margin_s": limits.margin_ms / 1000, "knows": SCHEMA}
        # Locked before the snapshot is taken: TRUNCATE empties a table even for older snapshots, which would then see no row
        # and yet the old epoch.
        _, _, [[xmin, epoch, rival]] = await self._session.pipeline(
            ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", None),
            ("LOCK TABLE products IN ACCESS SHARE MODE", None),
            (queries.SNAPSHOT, parameters),
        )
        known = since if since is not None and since.xid is not None and since.epoch == epoch else None
        yield Snapshot(epoch, int(xmin), self._pages(known, page_rows), rival)
        await self._session.rows("COMMIT")

    async def complete(self, cycle: int) -> None:
        """See ``AuditSource.complete``: one statement in autocommit."""
        await self._session.rows(
            queries.COMPLETE, {"namespace": self._namespace, "cycle": cycle, "epoch": self._announced_epoch}
        )

    def _reason(self, rival: str | None, incumbent: str | None, *, barred: bool) -> str:
        """Why an announcement was refused, as a sentence for the log."""
        if rival:
            return (
                f"the cache namespace {rival} of the same table has the trust, {self._namespace} waits until it is not used any"
                " more; reads go to the database meanwhile"
            )
        if barred:
            return f"the cache namespace {self._namespace} is barred; reads go to the database until larder namespace unbar"
        return (
            f"the Redis server {incumbent} has the trust, this instance is connected to another one and waits until no fence"
            " of that server can be alive; reads go to the database meanwhile"
        )

    async def _pages(self, since: Watermark | None, page_rows: int) -> AsyncIterator[Sequence[tuple[str, int]]]:
        if since is None:
            return
        fetch = (SQL("FETCH {} FROM changes").format(page_rows), None)  # FETCH takes no parameters
        # The first page comes with the cursor: most cycles see no change, and then it is the only round trip.
        _, page = await self._session.pipeline((queries.CHANGES, {"xid": str(since.xid)}), fetch)
        while page:
            yield cast("Sequence[tuple[str, int]]", page)
            page = await self._session.rows(*fetch) if len(page) == page_rows else []

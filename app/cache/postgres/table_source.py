"""A table in PostgreSQL as the cache's source: its epoch, and the progress of its audits, for writes that settle."""

from typing import Any

from typing_extensions import override

from ...postgres.database import Parameters, Pool, Statement
from ...postgres.errors import DatabaseError, DatabaseOverloaded, DatabaseUnsuitable, LockTimeout
from ..errors import Overloaded, SourceRefused, SourceUnavailable
from ..ports import AuditProgress, AuditRow, HistorySource
from . import table_queries
from .table_queries import CachedTable


class TableSource(HistorySource):
    """The ``HistorySource`` port on a share of the connections. Each method is one statement; ``adopt`` is two."""

    def __init__(self, pool: Pool, table: CachedTable, namespace: str) -> None:
        self._pool = pool
        self._table = table
        self._namespace = namespace

    @override
    async def tell_epoch(self) -> str:
        [[epoch]] = await read_rows(self._pool, table_queries.EPOCH, self._table.parameters)
        return str(epoch)

    @override
    async def standing(self) -> AuditProgress:
        rows = await read_rows(self._pool, table_queries.STANDING, self._table.parameters)
        return AuditProgress(rows[0][0], {name: AuditRow(*columns) for _, name, *columns in rows if name is not None})

    @override
    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        own = {"namespace": self._namespace, "max_ttl_s": fence_ttl_max_ms / 1000}
        await read_rows(self._pool, table_queries.ADOPT, {**self._table.parameters, **own})
        return await self.standing()


async def read_rows(pool: Pool, statement: Statement, parameters: Parameters) -> list[Any]:
    """Run one statement and return its rows.

    Raises:
        SourceUnavailable: PostgreSQL gave no answer; ``SourceRefused`` if PostgreSQL must not be used now.
        Overloaded: PostgreSQL has too much to do.
    """
    try:
        return list(await pool.rows(statement, parameters))
    except (DatabaseOverloaded, LockTimeout) as error:
        raise Overloaded(str(error)) from error
    except DatabaseUnsuitable as error:
        raise SourceRefused(str(error)) from error
    except DatabaseError as error:
        raise SourceUnavailable(str(error)) from error

"""A table in PostgreSQL as the cache's source: its rows, its epoch, and the progress of its audits for writes that settle."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from ...postgres.database import Parameters, Pool, StatementText
from ...postgres.errors import DatabaseError, DatabaseOverloaded, DatabaseUnsuitable, LockTimeout
from ..entity import Entity
from ..errors import Overloaded, SourceRefused, SourceUnavailable
from ..ports import Absent, AuditProgress, AuditRow, HistorySource, Source, State, Value
from . import table_queries


class TableRows(Source):
    """The ``Source`` port on a share of the connections. A load is one statement."""

    def __init__(self, pool: Pool, entity: Entity) -> None:
        self._pool = pool
        self._entity = entity
        self._statement = table_queries.load(entity)

    @override
    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        rows = await read_rows(self._pool, self._statement, load_parameters(self._entity, keys))
        return {state.key: state for state in states_of(self._entity, rows)}


class TableSource(HistorySource):
    """The ``HistorySource`` port on a share of the connections. Each method is one statement; ``adopt`` is two.

    ``rows`` are the audit rows of the namespace: its own, or those of its partitions.
    """

    def __init__(self, pool: Pool, entity: Entity, *rows: str) -> None:
        self._pool = pool
        self._parameters = table_queries.parameters(entity)
        self._rows = list(rows)

    @override
    async def tell_epoch(self) -> str:
        [[epoch, read_only]] = await read_rows(self._pool, table_queries.READY, self._parameters)
        if read_only:
            raise SourceRefused("the database is read-only for this role (default_transaction_read_only)")
        return str(epoch)

    @override
    async def standing(self) -> AuditProgress:
        rows = await read_rows(self._pool, table_queries.STANDING, self._parameters)
        return AuditProgress(rows[0][0], {name: AuditRow(*columns) for _, name, *columns in rows if name is not None})

    @override
    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        own = {"namespaces": self._rows, "max_ttl_s": fence_ttl_max_ms / 1000}
        await read_rows(self._pool, table_queries.ADOPT, {**self._parameters, **own})
        return await self.standing()


def load_parameters(entity: Entity, keys: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of ``load`` and, with a limit, of ``read_back``."""
    wanted = [int(key) for key in keys] if entity.key_type == "bigint" else list(keys)
    return {**table_queries.parameters(entity), "keys": wanted}


def states_of(entity: Entity, rows: Sequence[Sequence[Any]]) -> list[State]:
    """Return the states in the rows of ``load`` or ``read_back``.

    Raises:
        SourceRefused: this release has no function for payloads of the schema that the database is at.
    """
    states: list[State] = []
    names = ("version", entity.key, *entity.columns)
    for epoch, schema, key, version, present, *columns in rows:
        if not present:
            states.append(Absent(key, epoch, version))
            continue
        payload = entity.payload_of(schema)
        if payload is None:
            raise SourceRefused(
                f"this release has no payload of schema {schema} for {entity.table}, which the database is at: give the entity"
                " `payloads` for both schemas until the release before is gone"
            )
        states.append(Value(key, epoch, version, payload(**dict(zip(names, (version, *columns), strict=False)))))
    return states


async def read_rows(pool: Pool, statement: StatementText, parameters: Parameters) -> list[Any]:
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

"""The catalogue in PostgreSQL as the cache's source: loads, lists, and what settling asks."""

from collections.abc import Sequence
from typing import Any

from app.cache.errors import Overloaded, SourceRefused, SourceUnavailable
from app.cache.ports import Absent, AuditProgress, AuditRow, State, Value
from app.postgres.database import Database, Parameters, Pool
from app.postgres.errors import DatabaseError, DatabaseOverloaded, DatabaseUnsuitable, LockTimeout
from app.products import queries
from app.products.payload import SCHEMA, product_payload
from app.products.product import Gone, LedgerPosition, Movement, Position, Product, Reason, Row


def row_of(product_id: str, columns: Sequence[Any]) -> Row:
    """A row from the columns of the queries: name, price, stock, reorder point, version, created, updated, deleted."""
    name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at = columns
    if version is None:
        return Gone(product_id, 0)
    if deleted_at is not None:
        return Gone(product_id, version)
    return Product(product_id, name, price_cents, stock, reorder_point, version, created_at, updated_at)


def state_of(row: Row, epoch: str) -> State:
    """What the cache holds for a row."""
    if isinstance(row, Product):
        return Value(row.id, epoch, row.version, product_payload(row))
    return Absent(row.id, epoch, row.version)


_BEYOND = 2**63 - 1
"""Above every version."""


class ProductSource:
    """The ``Source`` port over PostgreSQL, and the catalogue's list."""

    def __init__(self, database: Database, namespace: str) -> None:
        self._loads = database.loads
        self._lists = database.lists
        self._namespace = namespace

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        """See ``Source.load``: one statement."""
        rows = await self._read(self._loads, queries.LOAD, {"ids": list(keys), "knows": SCHEMA})
        return {product_id: state_of(row_of(product_id, columns), epoch) for epoch, product_id, *columns in rows}

    async def tell_epoch(self) -> str:
        """See ``Source.tell_epoch``: one statement."""
        [[epoch]] = await self._read(self._loads, queries.EPOCH, {"knows": SCHEMA})
        return str(epoch)

    async def standing(self) -> AuditProgress:
        """See ``Source.standing``: one statement."""
        rows = await self._read(self._loads, queries.STANDING, {"knows": SCHEMA})
        return AuditProgress(rows[0][0], {name: AuditRow(*columns) for _, name, *columns in rows if name is not None})

    async def adopt(self, fence_ttl_max_ms: int) -> AuditProgress:
        """See ``Source.adopt``: two statements."""
        parameters = {"namespace": self._namespace, "max_ttl_s": fence_ttl_max_ms / 1000, "knows": SCHEMA}
        await self._read(self._loads, queries.ADOPT, parameters)
        return await self.standing()

    async def page(
        self, *, limit: int, after: Position | None, prefix: str, below_reorder_point: bool = False
    ) -> list[tuple[Product, Position]]:
        """The products after a position, by id, or by name when only ``prefix`` is given. Raises as ``load``."""
        position = after or Position("")
        parameters = {"limit": limit, "after_id": position.id, "after_key": position.name_key, "prefix": prefix}
        if below_reorder_point:
            rows = await self._read(self._lists, queries.LIST_BELOW_REORDER_POINT, parameters)
        else:
            rows = await self._read(self._lists, queries.LIST_BY_NAME if prefix else queries.LIST_BY_ID, parameters)
        found = []
        for product_id, *columns, name_key in rows:
            row = row_of(product_id, columns)
            if isinstance(row, Product):
                found.append((row, Position(product_id, name_key)))
        return found

    async def movements(self, product_id: str, *, limit: int, after: LedgerPosition | None) -> list[Movement]:
        """One product's ledger after a position, newest first. Raises as ``load``."""
        parameters = {
            "product_id": product_id,
            "version": after.version if after else _BEYOND,
            "line": after.line if after else 0,
            "limit": limit,
        }
        return [_movement(columns) for columns in await self._read(self._lists, queries.MOVEMENTS, parameters)]

    async def movements_by_reference(self, reference: str, *, limit: int, after: LedgerPosition | None) -> list[Movement]:
        """The ledger of one reference after a position, newest first. Raises as ``load``."""
        parameters = {
            "reference": reference,
            # A word either way: a time would be another type, and the statement be prepared once more.
            "created_at": after.created_at.isoformat() if after else "infinity",
            "product_id": after.product_id if after else "",
            "version": after.version if after else 0,
            "line": after.line if after else 0,
            "limit": limit,
        }
        return [_movement(columns) for columns in await self._read(self._lists, queries.MOVEMENTS_BY_REFERENCE, parameters)]

    async def has_ledger(self, product_id: str) -> bool:
        """Whether the id ever had a movement. Raises as ``load``."""
        return bool(await self._read(self._lists, queries.HAS_LEDGER, {"product_id": product_id}))

    async def _read(self, share: Pool, statement: Any, parameters: Parameters) -> list[Any]:
        try:
            return list(await share.rows(statement, parameters))
        except (DatabaseOverloaded, LockTimeout) as error:
            raise Overloaded(str(error)) from error
        except DatabaseUnsuitable as error:
            raise SourceRefused(str(error)) from error
        except DatabaseError as error:
            raise SourceUnavailable(str(error)) from error


def _movement(columns: Sequence[Any]) -> Movement:
    product_id, version, line, delta, stock_after, reason, reference, created_at = columns
    return Movement(product_id, version, line, delta, stock_after, Reason(reason), reference, created_at)

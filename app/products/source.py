"""The catalogue in PostgreSQL as the cache's source: loads, lists, and what settling asks."""

from collections.abc import Sequence
from typing import Any

from app.cache.errors import Overloaded, SourceUnavailable
from app.cache.ports import Absent, Standing, State, Value
from app.postgres.database import Database, Parameters
from app.postgres.errors import DatabaseError, DatabaseOverloaded
from app.products import queries
from app.products.payload import product_payload
from app.products.product import Gone, Position, Product, Row


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


class ProductSource:
    """The ``Source`` port over PostgreSQL, and the catalogue's list."""

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace

    async def load(self, keys: Sequence[str]) -> dict[str, State]:
        """See ``Source.load``: one statement."""
        rows = await self._read(queries.LOAD, {"ids": list(keys)})
        return {product_id: state_of(row_of(product_id, columns), epoch) for epoch, product_id, *columns in rows}

    async def standing(self) -> Standing:
        """See ``Source.standing``: one statement."""
        [[announced, completed, remaining_s, audited_epoch, epoch]] = await self._read(
            queries.STANDING, {"namespace": self._namespace}
        )
        return Standing(announced, completed, remaining_s, audited_epoch, epoch)

    async def adopt(self, fence_ttl_max_ms: int) -> Standing:
        """See ``Source.adopt``: two statements."""
        await self._read(queries.ADOPT, {"namespace": self._namespace, "max_ttl_s": fence_ttl_max_ms / 1000})
        return await self.standing()

    async def page(self, *, limit: int, after: Position | None, prefix: str) -> list[tuple[Product, Position]]:
        """The products after a position, by id, or by name when ``prefix`` is not empty. Raises as ``load``."""
        position = after or Position("")
        parameters = {"limit": limit, "after_id": position.id, "after_key": position.name_key, "prefix": prefix}
        rows = await self._read(queries.LIST_BY_NAME if prefix else queries.LIST_BY_ID, parameters)
        found = []
        for product_id, *columns, name_key in rows:
            row = row_of(product_id, columns)
            if isinstance(row, Product):
                found.append((row, Position(product_id, name_key)))
        return found

    async def _read(self, statement: Any, parameters: Parameters) -> list[Any]:
        try:
            return list(await self._database.rows(statement, parameters))
        except DatabaseOverloaded as error:
            raise Overloaded(str(error)) from error
        except DatabaseError as error:
            raise SourceUnavailable(str(error)) from error

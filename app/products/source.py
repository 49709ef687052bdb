"""The products in PostgreSQL: the rows that the cache loads, the list, and the ledger."""

from collections.abc import Sequence
from typing import Any

from app.cache.entity import Entity
from app.cache.ports import Absent, State, Value
from app.cache.postgres.table_source import TableRows, read_rows
from app.postgres.database import Database
from app.products import queries
from app.products.payload import SCHEMA, product_payload
from app.products.product import Gone, LedgerPosition, Movement, Position, Product, Reason, Row
from app.products.reservation_source import ReservationSource


def row_of(product_id: str, columns: Sequence[Any]) -> Row:
    """Return a row made of the queries' columns: name, price, stock, reorder point, version, three times, reserved."""
    name, price_cents, stock, reorder_point, version, created_at, updated_at, deleted_at, reserved = columns
    if version is None:
        return Gone(product_id, 0)
    if deleted_at is not None:
        return Gone(product_id, version)
    return Product(product_id, name, price_cents, stock, reorder_point, version, created_at, updated_at, reserved)


def state_of(row: Row, epoch: str) -> State:
    """Return the state that the cache holds for a row."""
    if isinstance(row, Product):
        return Value(row.id, epoch, row.version, product_payload(row))
    return Absent(row.id, epoch, row.version)


def _payload(**columns: Any) -> bytes:
    return product_payload(Product(**columns))


def _payload_before(reserved: int, **columns: Any) -> bytes:  # noqa: ARG001 - nothing is held before the finish
    return product_payload(Product(**columns))


PRODUCTS = Entity(
    namespace="products",
    schema=SCHEMA,
    table="products",
    key="id",
    columns=("name", "price_cents", "stock", "reorder_point", "created_at", "updated_at", "reserved"),
    payload=_payload,
    payloads={1: _payload_before, 2: _payload_before},  # the same members; 2 only changed the form of the epoch
    tombstone="deleted_at",
)
"""The products for the cache."""

_BEYOND = 2**63 - 1
"""A number that no version reaches."""


class ProductSource(TableRows):
    """The products in PostgreSQL: their rows for the cache, the product list and the ledger, and their reservations."""

    reservations: ReservationSource

    def __init__(self, database: Database) -> None:
        super().__init__(database.loads, PRODUCTS)
        self._lists = database.lists
        self.reservations = ReservationSource(database)

    async def page(
        self,
        *,
        limit: int,
        after: Position | None,
        prefix: str,
        below_reorder_point: bool = False,
        uncovered: bool = False,
    ) -> list[tuple[Product, Position]]:
        """Return the products after a position, by id, or by name when only ``prefix`` is given. Raises as ``load``."""
        position = after or Position("")
        parameters = {"limit": limit, "after_id": position.id, "after_key": position.name_key, "prefix": prefix}
        if below_reorder_point:
            rows = await read_rows(self._lists, queries.LIST_BELOW_REORDER_POINT, parameters)
        elif uncovered:
            rows = await read_rows(self._lists, queries.LIST_UNCOVERED, parameters)
        else:
            rows = await read_rows(self._lists, queries.LIST_BY_NAME if prefix else queries.LIST_BY_ID, parameters)
        found = []
        for product_id, *columns, name_key in rows:
            row = row_of(product_id, columns)
            if isinstance(row, Product):
                found.append((row, Position(product_id, name_key)))
        return found

    async def movements(self, product_id: str, *, limit: int, after: LedgerPosition | None) -> list[Movement]:
        """Return one product's ledger after a position, newest first. Raises as ``load``."""
        parameters = {
            "product_id": product_id,
            "version": after.version if after else _BEYOND,
            "line": after.line if after else 0,
            "limit": limit,
        }
        return [_movement(columns) for columns in await read_rows(self._lists, queries.MOVEMENTS, parameters)]

    async def movements_by_reference(self, reference: str, *, limit: int, after: LedgerPosition | None) -> list[Movement]:
        """Return the ledger of one reference after a position, newest first. Raises as ``load``."""
        parameters = {
            "reference": reference,
            # This is always text: a time would be another type, and the statement would be prepared once more.
            "created_at": after.created_at.isoformat() if after else "infinity",
            "product_id": after.product_id if after else "",
            "version": after.version if after else 0,
            "line": after.line if after else 0,
            "limit": limit,
        }
        return [_movement(columns) for columns in await read_rows(self._lists, queries.MOVEMENTS_BY_REFERENCE, parameters)]

    async def latest_movements(self, *, limit: int) -> list[Movement]:
        """Return the newest movements of the products that were changed last, newest first. Raises as ``load``."""
        return [_movement(columns) for columns in await read_rows(self._lists, queries.LATEST_MOVEMENTS, {"limit": limit})]

    async def has_ledger(self, product_id: str) -> bool:
        """Return whether the id ever had a movement. Raises as ``load``."""
        return bool(await read_rows(self._lists, queries.HAS_LEDGER, {"product_id": product_id}))


def _movement(columns: Sequence[Any]) -> Movement:
    product_id, version, line, delta, stock_after, reason, reference, created_at, *reserved = columns
    return Movement(product_id, version, line, delta, stock_after, Reason(reason), reference, created_at, *reserved)

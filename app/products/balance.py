"""Whether stocks, held units, ledger and reservations agree: the check of ``larder verify``. It reads every row once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from app.cache.postgres.table_source import read_rows
from app.postgres.database import Database

DEVIATIONS: LiteralString = """
SELECT p.id, p.stock, p.reserved, coalesce(m.delta, 0), coalesce(m.reserved_delta, 0), coalesce(l.open, 0)
FROM products p
LEFT JOIN (
    SELECT product_id, sum(delta) AS delta, sum(reserved_delta) AS reserved_delta FROM stock_movements GROUP BY product_id
) m ON m.product_id = p.id
LEFT JOIN (
    SELECT product_id, sum(open) AS open FROM reservation_lines WHERE open > 0 GROUP BY product_id
) l ON l.product_id = p.id
WHERE p.stock <> coalesce(m.delta, 0) OR p.reserved <> coalesce(m.reserved_delta, 0) OR p.reserved <> coalesce(l.open, 0)
ORDER BY p.id LIMIT %(limit)s
"""
"""Returns products whose stock or held units do not agree with the ledger, or with the open lines of reservations."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A product whose units do not add up."""

    product_id: str
    stock: int
    reserved: int
    recorded: int
    """The sum of the ledger's deltas, which must be the stock."""
    recorded_reserved: int
    """The sum of the ledger's changes of held units, which must be the held units."""
    open: int
    """The open units of all reservations, which must be the held units, too."""


async def deviations(database: Database, *, limit: int) -> Sequence[Deviation]:
    """Return products whose units do not add up, in one snapshot. Raises as ``Source.load``."""
    rows = await read_rows(database.lists, DEVIATIONS, {"limit": limit})
    return [Deviation(product_id, *map(int, numbers)) for product_id, *numbers in rows]

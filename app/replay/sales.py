"""CSV records to lines of sales. No I/O, no HTTP.

The names of columns are those of the two editions of the UCI "Online Retail" data set, and their spelling in snake case.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from app.importer.records import Columns, Record, Refusal, read_records, shown
from app.replay.ids import IdMap

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "invoice": ("invoice", "InvoiceNo", "invoice_no"),
    "product": ("stock_code", "StockCode", "product_id"),
    "quantity": ("quantity",),
}
QUANTITY_MAX = 2**53 - 1

_WHOLE = re.compile(r"[+-]?[0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class SaleLine:
    """So many units of a product sold (or, below zero, returned) on the line of the file where the row starts."""

    line: int
    invoice: str
    product_id: str
    quantity: int


def read_sales(lines: Iterable[str], mapping: Mapping[str, str], id_map: IdMap) -> tuple[Columns, Iterator[SaleLine | Refusal]]:
    """The columns of the header line, and the sales below it, in order, one at a time.

    Errors: `BadInput` for a file without a usable header.
    """
    columns, records = read_records(lines, mapping, FIELDS, tuple(FIELDS))
    return columns, (record if isinstance(record, Refusal) else _sale(record, columns, id_map) for record in records)


def _sale(record: Record, columns: Columns, id_map: IdMap) -> SaleLine | Refusal:
    invoice, code, cell = (record.cells[columns.positions[field]] for field in ("invoice", "product", "quantity"))
    if not invoice.strip():
        return Refusal(record.line, "", "the invoice is empty")
    if not code.strip():
        return Refusal(record.line, invoice, "the product is empty")
    quantity = signed_whole_number(cell)
    if quantity is None:
        return Refusal(record.line, invoice, f"quantity: {shown(cell)} is not a whole number up to {QUANTITY_MAX}")
    return SaleLine(record.line, invoice, id_map(code), quantity)


def signed_whole_number(cell: str) -> int | None:
    """The number that `cell` writes in ASCII digits after a sign or none; None if it is not one within ±(2^53-1)."""
    text = cell.strip()
    if _WHOLE.fullmatch(text) is None:
        return None
    number = int(text)
    return number if abs(number) <= QUANTITY_MAX else None

"""Sales out of a CSV file, plain or gzip: the columns of both editions of the UCI "Online Retail" data set."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from app.importer.csv_file import CsvFile
from app.importer.errors import ImportStopped

COLUMNS = {
    "invoice": ("invoice", "invoiceno"),
    "code": ("stock_code", "stockcode"),
    "quantity": ("quantity",),
    "name": ("description",),
    "price": ("unit_price", "unitprice", "price"),
}
"""The names that a column may have, whatever their case."""

_ID_MAX_CHARS = 64
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
_PRICE = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._:-]")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Sale:
    """So many units of a product sold (or, below zero, returned) on the line of the file where the row starts."""

    line: int
    invoice: str
    code: str
    product_id: str
    quantity: int
    name: str
    price: Decimal


def read_sales(path: Path) -> list[Sale]:
    """All sales of a file, in order.

    Raises:
        ImportStopped: the file cannot be read, or a row is no sale: what leaves out rows cannot be checked to the unit.
    """
    sales: list[Sale] = []
    bad: list[str] = []
    with CsvFile(path) as file:
        reader = csv.reader(file.lines(), strict=True)
        try:
            header = next(reader, [])
            positions = _positions(header)
            line = reader.line_num + 1
            for cells in reader:
                if any(cells):
                    try:
                        sales.append(_sale(line, cells, positions, len(header)))
                    except ValueError as error:
                        bad.append(f"  line {line}: {error}")
                line = reader.line_num + 1
        except csv.Error as error:
            raise ImportStopped(f"Line {reader.line_num} of {path} is not readable as CSV: {error}") from error
    if bad:
        more = [f"  and {len(bad) - _SHOWN:,} more"] if len(bad) > _SHOWN else []
        raise ImportStopped("\n".join([f"{len(bad):,} rows of {path} are no sale:", *bad[:_SHOWN], *more]))
    return sales


def _positions(header: list[str]) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    found = {field: next((names.index(name) for name in usual if name in names), -1) for field, usual in COLUMNS.items()}
    if missing := [field for field, position in found.items() if position < 0]:
        raise ImportStopped(f"The header has no column for {', '.join(missing)}: {header}")
    return found


def _sale(line: int, cells: list[str], positions: dict[str, int], width: int) -> Sale:
    if len(cells) != width:
        raise ValueError(f"has {len(cells)} cells, the header has {width}")
    cell = {field: cells[position] for field, position in positions.items()}
    quantity, price = cell["quantity"].strip(), cell["price"].strip()
    if not cell["invoice"].strip() or not cell["code"].strip():
        raise ValueError("the invoice or the product is empty")
    if _WHOLE.fullmatch(quantity) is None:
        raise ValueError(f"quantity {quantity!r} is not a whole number")
    if _PRICE.fullmatch(price) is None:
        raise ValueError(f"price {price!r} is not one such as 2.55")
    "".join(cell.values()).encode()  # UnicodeEncodeError, which is a ValueError, for what is not UTF-8
    return Sale(line, cell["invoice"], cell["code"], sanitized(cell["code"]), int(quantity), cell["name"], Decimal(price))


def sanitized(code: str) -> str:
    """The code with ``_`` for each character that an id may not have, cut to the length that it may have; case is kept."""
    if code in {".", ".."}:
        return "_" * len(code)
    return _NOT_IN_AN_ID.sub("_", code)[:_ID_MAX_CHARS]


def collisions(sales: Iterable[Sale]) -> dict[str, list[str]]:
    """The ids that more than one code became, with those codes, in the order of the file."""
    codes: dict[str, dict[str, None]] = {}
    for sale in sales:
        codes.setdefault(sale.product_id, {})[sale.code] = None
    return {product_id: list(several) for product_id, several in codes.items() if len(several) > 1}

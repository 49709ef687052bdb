"""CSV records to rows that can be sent. No I/O, no HTTP.

A cell is judged here only as far as CSV goes: present, a whole number, UTF-8. What a legal id or name is, the
service alone decides; ids and names are passed on as they stand in the file.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from app.importer.records import Columns, Record, Refusal, read_records, shown

__all__ = ["FIELDS", "NUMBER_MAX", "Columns", "Refusal", "Row", "read_rows", "whole_number"]

REQUIRED = ("id", "name", "price_cents")
FIELDS = (*REQUIRED, "stock", "reorder_point")
NUMBERS = ("price_cents", "stock", "reorder_point")
NUMBER_MAX = 2**53 - 1

_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Row:
    """A product to send: `body` is its JSON object in UTF-8, `line` the line on which its record starts (from 1)."""

    line: int
    id: str
    body: bytes


def read_rows(lines: Iterable[str], mapping: Mapping[str, str]) -> tuple[Columns, Iterator[Row | Refusal]]:
    """The columns of the header line, and the rows below it, in order, one at a time.

    Records whose cells are all empty are skipped. Errors: `BadInput` for a file without a usable header.
    """
    columns, records = read_records(lines, mapping, {field: (field,) for field in FIELDS}, REQUIRED)
    return columns, (record if isinstance(record, Refusal) else _row(record, columns) for record in records)


def _row(record: Record, columns: Columns) -> Row | Refusal:
    """The row to send, or the first reason why it cannot be."""
    row_id = record.cells[columns.positions["id"]]
    item: dict[str, str | int] = {}
    for field, position in columns.positions.items():
        cell = record.cells[position]
        if not cell:
            if field in REQUIRED:
                return Refusal(record.line, row_id, f"{field} is empty")
            continue
        if field in NUMBERS:
            number = whole_number(cell)
            if number is None:
                return Refusal(record.line, row_id, f"{field}: {shown(cell)} is not a whole number from 0 to {NUMBER_MAX}")
            item[field] = number
        else:
            item[field] = cell
    body = json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()
    return Row(record.line, row_id, body)


def whole_number(cell: str) -> int | None:
    """The number that `cell` writes in ASCII digits, spaces around it allowed; None if it is not one from 0 to 2^53-1."""
    digits = cell.strip()
    if _DIGITS.fullmatch(digits) is None:
        return None
    # Long before int(): Python refuses to convert thousands of digits, with an error of its own.
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(NUMBER_MAX)):
        return None
    number = int(digits)
    return number if number <= NUMBER_MAX else None

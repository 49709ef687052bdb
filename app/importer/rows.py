"""The conversion of CSV text to rows that can be sent, without I/O or HTTP.

A cell is checked here only for its form: present, a whole number, UTF-8. The service alone decides whether an id or a name is
legal; ids and names are passed on unchanged.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from app.importer.errors import ImportStopped

REQUIRED = ("id", "name", "price_cents")
FIELDS = (*REQUIRED, "stock", "reorder_point")
NUMBERS = ("price_cents", "stock", "reorder_point")
NUMBER_MAX = 2**53 - 1
PriceUnit = Literal["cents", "major"]
"""What a 1 in the column of prices is: a cent, or a euro, a dollar and the like, which is 100 cents."""
PRICE_UNITS: Final = get_args(PriceUnit)

_CONVERT = "convert the file, naming the encoding it has: iconv -f WINDOWS-1252 -t UTF-8 FILE > converted.csv"
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_DIGITS = re.compile(r"[0-9]+")
_CENTS = re.compile("(?<![a-z])cents?(?![a-z])")
_MAJOR = re.compile(r"([0-9]+)(?:[.,]([0-9]{1,2}))?")
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Row:
    """A product to send: ``body`` is its JSON object in UTF-8, ``line`` the line on which its record starts (from 1)."""

    line: int
    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is not imported, and the reason. ``id`` is empty when the row has none or could not be read."""

    line: int
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Columns:
    """The position of each field among the cells of a record."""

    names: tuple[str, ...]
    positions: Mapping[str, int]

    @classmethod
    def of(cls, header: Sequence[str], mapping: Mapping[str, str]) -> "Columns":
        """Return the position of every field. ``mapping`` has the columns whose names differ from their fields.

        A name that matches exactly wins; otherwise case and outer spaces are ignored.

        Raises:
            ImportStopped: a required or mapped column is missing or ambiguous.
        """
        positions: dict[str, int] = {}
        missing: list[str] = []
        for field in FIELDS:
            wanted = mapping.get(field, field)
            found = _matches(header, wanted)
            if len(found) > 1:
                raise ImportStopped(
                    f"The header has {len(found)} columns that could be {field}, all named like {wanted!r}. "
                    f"Rename one, or name another column: --map {field}=COLUMN"
                )
            if found:
                positions[field] = found[0]
            elif field in REQUIRED or field in mapping:
                missing.append(field if wanted == field else f"{field} (looked for a column {wanted!r})")
        if missing:
            raise ImportStopped(_missing_columns(header, missing))
        return cls(tuple(header), positions)

    def text(self) -> str:
        """Return a sentence about which columns of the file are read, and which are not."""
        read = ", ".join(
            field if self.names[position] == field else f"{field} from {self.names[position]!r}"
            for field, position in self.positions.items()
        )
        others = [repr(name) for position, name in enumerate(self.names) if position not in self.positions.values()]
        return f"Columns read: {read}." + (f" Not read: {', '.join(others)}." if others else "")


def _matches(header: Sequence[str], wanted: str) -> list[int]:
    exact = [position for position, name in enumerate(header) if name == wanted]
    if exact:
        return exact
    folded = wanted.strip().casefold()
    return [position for position, name in enumerate(header) if name.strip().casefold() == folded]


def _missing_columns(header: Sequence[str], missing: Sequence[str]) -> str:
    present = ", ".join(_quoted(name) for name in header)
    message = f"The header line has no column for {', '.join(missing)}. Its columns are: {present}."
    if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
        return f"{message} Cells must be separated by commas; this file seems to use another separator."
    return f"{message} If a column has another name, give it: --map {missing[0].split()[0]}=COLUMN"


def read_rows(
    lines: Iterable[str], mapping: Mapping[str, str], price_unit: PriceUnit | None = None
) -> tuple[Columns, Iterator[Row | Rejected]]:
    """Return the columns of the header line (see ``Columns.of``), and an iterator over the rows below it, in order.

    Records whose cells are all empty are skipped.

    Raises:
        ImportStopped: the file has no usable header, or nobody says what unit its prices have.
    """
    records = _records(lines)
    header = next(records, None)
    if header is None:
        raise ImportStopped(f"The file is empty: it needs a header line that names the columns, such as {','.join(REQUIRED)}")
    if isinstance(header, Rejected):
        raise ImportStopped(
            f"The header line cannot be read: {header.reason}. "
            "(Are the file's line ends CR alone? Then: tr '\\r' '\\n' < FILE > converted.csv)"
        )
    _, names = header
    if any(_NOT_UTF8.search(name) for name in names):
        raise ImportStopped(f"The header line is not UTF-8: {_CONVERT} (unpack a gzip file first)")
    columns = Columns.of(names, mapping)
    unit = price_unit or _unit_of(names[columns.positions["price_cents"]])
    return columns, (record if isinstance(record, Rejected) else _row(*record, columns, unit) for record in records)


def _unit_of(column: str) -> PriceUnit:
    """Return the unit of a column of prices by its name. 45 is 45 cents in one file, and 4,500 in another."""
    if not _CENTS.search(column.casefold()):
        raise ImportStopped(
            f"The name of the column {_quoted(column)} does not say what unit its prices have. Add --price-unit cents if 1299"
            " stands for 12.99 in the file, or --price-unit major if 12.99 stands there."
        )
    return "cents"


def _records(lines: Iterable[str]) -> Iterator[tuple[int, list[str]] | Rejected]:
    """Yield the line on which each record starts, and its cells."""
    # The mode is strict, because the lenient one silently accepts a stray quote, or a file cut off inside one, as data.
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Rejected(line, "", _unreadable(str(error), line, reader.line_num))
            continue
        if any(cells):
            yield line, cells


def _unreadable(error: str, line: int, last_line: int) -> str:
    if error.startswith("new-line character"):
        error = "a CR outside quotes"
    reason = f"not readable as CSV: {error}"
    if last_line > line:
        # An open quote includes the lines below it. They are lost with this one, so the message names them.
        return f"{reason}; lines {line} to {last_line} were taken for one row (a quote not closed?), none is imported"
    return reason


def _row(line: int, cells: list[str], columns: Columns, unit: PriceUnit) -> Row | Rejected:
    """Return the row to send, or a rejected row with the first reason why it cannot be sent."""
    id_position = columns.positions["id"]
    row_id = cells[id_position] if id_position < len(cells) else ""
    if any(not cell.isascii() and _NOT_UTF8.search(cell) for cell in cells):
        return Rejected(line, row_id, f"not UTF-8: {_CONVERT}")
    if len(cells) != len(columns.names):
        # Even one missing cell may mean that all of them are shifted, e.g. prices into stock.
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        return Rejected(line, row_id, f"has {count}, the header has {len(columns.names)} (a comma not quoted?)")
    item: dict[str, str | int | None] = {}
    for field, position in columns.positions.items():
        cell = cells[position]
        if not cell:
            if field in REQUIRED:
                return Rejected(line, row_id, f"{field} is empty")
            continue
        value: str | int | None = cell
        if field == "price_cents" and unit == "major":
            if (value := cents_of(cell)) is None:
                return Rejected(line, row_id, f"price: {_quoted(cell)} is not a number such as 12 or 12.99, to 2^53-1 cents")
        elif field in NUMBERS and (value := whole_number(cell)) is None:
            return Rejected(line, row_id, f"{field}: {_quoted(cell)} is not a whole number from 0 to {NUMBER_MAX}")
        item[field] = value
    return Row(line, row_id, json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode())


def whole_number(cell: str) -> int | None:
    """Return the whole number in a cell, or ``None`` if it is not one from 0 to 2^53-1.

    It is written in ASCII digits, and spaces around it are allowed.
    """
    digits = cell.strip()
    if _DIGITS.fullmatch(digits) is None:
        return None
    digits = digits.lstrip("0") or "0"
    # Python refuses to convert thousands of digits and raises an error.
    if len(digits) > len(str(NUMBER_MAX)) or int(digits) > NUMBER_MAX:
        return None
    return int(digits)


def cents_of(cell: str) -> int | None:
    """Return the price in a cell in cents, or ``None`` if it has another form or more than 2^53-1 cents.

    A point or a comma is before the cents. A third digit after it is refused, because it may stand before thousands.
    """
    found = _MAJOR.fullmatch(cell.strip())
    return None if found is None else whole_number(found[1] + (found[2] or "").ljust(2, "0"))


def _quoted(cell: str) -> str:
    """Return the cell as messages quote it. A long one is shortened."""
    return repr(cell if len(cell) <= _SHOWN_CHARS else cell[:_SHOWN_CHARS] + "…")

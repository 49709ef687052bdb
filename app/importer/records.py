"""CSV text to records: the header's columns, and the cells below it. No I/O.

What the cells mean, the reader of a file decides (`app.importer.rows` for products, `app.replay.sales` for sales).
"""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.importer.errors import BadInput

CONVERT = "convert the file, naming the encoding it has: iconv -f WINDOWS-1252 -t UTF-8 FILE > converted.csv"

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that cannot be used, and why. `id` is empty when the row has none or could not be read."""

    line: int
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """The cells of one row; `line` is the line on which it starts (from 1)."""

    line: int
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Columns:
    """Where each field stands among the cells of a record."""

    names: tuple[str, ...]
    positions: Mapping[str, int]

    @classmethod
    def of(
        cls, header: Sequence[str], mapping: Mapping[str, str], fields: Mapping[str, Sequence[str]], required: Collection[str]
    ) -> "Columns":
        """Find every field's column: `fields` has the names it is looked for under, the first that is there counts.

        `mapping` names the columns that are called otherwise. A name that matches exactly wins; else upper and lower case
        and outer spaces do not count. Errors: `BadInput` for a required or mapped column that is missing or ambiguous.
        """
        positions: dict[str, int] = {}
        missing: list[str] = []
        for field, usual in fields.items():
            names = (mapping[field],) if field in mapping else usual
            wanted, found = next(((name, at) for name in names if (at := _matches(header, name))), (names[0], []))
            if len(found) > 1:
                raise BadInput(
                    f"The header has {len(found)} columns that could be {field}, all named like {wanted!r}. "
                    f"Rename one, or name another column: --map {field}=COLUMN"
                )
            if found:
                positions[field] = found[0]
            elif field in required or field in mapping:
                looked_for = ", ".join(map(repr, names))
                missing.append(field if tuple(names) == (field,) else f"{field} (looked for a column {looked_for})")
        if missing:
            raise BadInput(_missing_columns(header, missing))
        return cls(tuple(header), positions)

    def unused(self) -> list[str]:
        """Columns of the file that are not read."""
        used = set(self.positions.values())
        return [name for position, name in enumerate(self.names) if position not in used]


def _matches(header: Sequence[str], wanted: str) -> list[int]:
    exact = [position for position, name in enumerate(header) if name == wanted]
    if exact:
        return exact
    folded = wanted.strip().casefold()
    return [position for position, name in enumerate(header) if name.strip().casefold() == folded]


def _missing_columns(header: Sequence[str], missing: Sequence[str]) -> str:
    present = ", ".join(shown(name) for name in header)
    message = f"The header line has no column for {', '.join(missing)}. Its columns are: {present}."
    if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
        return f"{message} Cells must be separated by commas; this file seems to use another separator."
    return f"{message} If a column is called otherwise, name it: --map {missing[0].split()[0]}=COLUMN"


def read_records(
    lines: Iterable[str], mapping: Mapping[str, str], fields: Mapping[str, Sequence[str]], required: Collection[str]
) -> tuple[Columns, Iterator[Record | Refusal]]:
    """The columns of the header line (see `Columns.of`), and the records below it, in order, one at a time.

    Records whose cells are all empty are skipped. Errors: `BadInput` for a file without a usable header.
    """
    records = _records(lines)
    header = next(records, None)
    if header is None:
        raise BadInput(f"The file is empty: it needs a header line that names the columns, such as {','.join(required)}")
    if isinstance(header, Refusal):
        raise BadInput(
            f"The header line cannot be read: {header.reason}. "
            "(Are the file's line ends CR alone? Then: tr '\\r' '\\n' < FILE > converted.csv)"
        )
    if any(_NOT_UTF8.search(cell) for cell in header.cells):
        raise BadInput(f"The header line is not UTF-8: {CONVERT} (unpack a gzip file first)")
    columns = Columns.of(header.cells, mapping, fields, required)
    return columns, (record if isinstance(record, Refusal) else _judged(record, columns) for record in records)


def _records(lines: Iterable[str]) -> Iterator[Record | Refusal]:
    # Strict, because the lenient mode silently takes a stray quote, or a file cut off inside one, for data.
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refusal(line, "", _unreadable(str(error), line, reader.line_num))
            continue
        if any(cells):
            yield Record(line, cells)


def _unreadable(error: str, line: int, last_line: int) -> str:
    if error.startswith("new-line character"):
        error = "a CR outside quotes"
    reason = f"not readable as CSV: {error}"
    if last_line > line:
        # An open quote swallows the lines below it: they are lost with this one, so they are named.
        return f"{reason}; lines {line} to {last_line} were taken for one row (a quote not closed?), none is imported"
    return reason


def _judged(record: Record, columns: Columns) -> Record | Refusal:
    """The record, or why it is none: cells that are not UTF-8, or not as many as the header has."""
    cells = record.cells
    # The first field is the one by which a reader of the file knows the row.
    id_position = next(iter(columns.positions.values()))
    row_id = cells[id_position] if id_position < len(cells) else ""
    if any(not cell.isascii() and _NOT_UTF8.search(cell) for cell in cells):
        return Refusal(record.line, row_id, f"not UTF-8: {CONVERT}")
    if len(cells) != len(columns.names):
        # Even one cell too few may mean that all of them are shifted, prices into stock.
        return Refusal(
            record.line, row_id, f"has {_cells(len(cells))}, the header has {len(columns.names)} (a comma not quoted?)"
        )
    return record


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def shown(cell: str) -> str:
    """The cell as messages quote it, a long one cut off."""
    return repr(cell if len(cell) <= _SHOWN_CHARS else cell[:_SHOWN_CHARS] + "…")

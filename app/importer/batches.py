"""The division of rows into batches, one for each request. Each id is imported only once in the whole file.

The first line with an id is imported; every later one is rejected, with both line numbers. So no two requests of an import
change the same product, and their order, which is not fixed, does not matter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from app.importer.csv_file import CsvFile
from app.importer.errors import ImportStopped
from app.importer.rows import Rejected, Row

BODY_MAX_BYTES = 1_048_576
"""A batch is closed at this size; the service accepts 4 MiB, and a single row may be larger than this."""
IDS_MAX = 10_000_000
"""Different ids in one file; each is kept in memory with its line, about 150 bytes."""

_ID_CHARS = 64


@dataclass(slots=True)
class Batch:
    """A part of the file: rows to send in one request, and the rows among them that are rejected already."""

    position: int = 0
    """Bytes of the file read when the batch was closed."""
    rows: list[Row] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def read_batches(rows: Iterable[Row | Rejected], file: CsvFile, *, batch_size: int) -> Iterator[Batch]:
    """Yield batches of at most ``batch_size`` rows, including rejected ones, in the order of the file.

    Raises:
        ImportStopped: the file has more than ``IDS_MAX`` ids, or cannot be read on.
    """
    batch, body_bytes = Batch(), 0
    for row in each_id_once(rows):
        added = len(row.body) + 1 if isinstance(row, Row) else 0
        full = len(batch.rows) + len(batch.rejected) >= batch_size
        if full or (batch.rows and body_bytes + added > BODY_MAX_BYTES):
            batch.position = file.position
            yield batch
            batch, body_bytes = Batch(), 0
        if isinstance(row, Row):
            batch.rows.append(row)
            body_bytes += added
        else:
            batch.rejected.append(row)
    batch.position = file.position
    yield batch


def each_id_once(rows: Iterable[Row | Rejected], *, ids_max: int = IDS_MAX) -> Iterator[Row | Rejected]:
    """Yield the rows. A row is rejected if an earlier line has the same id.

    The id of a rejected row counts, too, so that a mistake in one line never decides which other line is imported.
    """
    first_lines: dict[str | bytes, int] = {}
    for row in rows:
        first = first_lines.setdefault(_key(row.id), row.line) if row.id else row.line
        if len(first_lines) > ids_max:
            raise ImportStopped(f"The file has more than {ids_max:,} ids. Split it, and import the parts one after the other.")
        if first == row.line or isinstance(row, Rejected):
            yield row
        else:
            yield Rejected(row.line, row.id, f"this id is already on line {first}; the first line counts")


def _key(row_id: str) -> str | bytes:
    """Return the id itself, or its digest if it is longer than the service allows."""
    if len(row_id) <= _ID_CHARS:
        return row_id
    return blake2b(row_id.encode(errors="surrogateescape"), digest_size=16).digest()

"""Rows to chunks: what one request carries, and each id only once in the whole file.

The first line that has an id speaks for it; every later one is refused, with both line numbers. So no two
requests of an import touch the same product, and their order, which concurrency leaves open, does not matter.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from app.importer.errors import BadInput
from app.importer.rows import Refusal, Row
from app.importer.source import CsvSource

BODY_MAX_BYTES = 1_048_576
"""A chunk's rows are closed at this size; the service accepts 4 MiB, and a single row may be larger than this."""

_CACHE_KIB = 8_192


class SeenIds:
    """The ids of the file so far, in a private temporary database on disk: memory stays the same however long it is.

    SQLite keeps a few MiB in memory and writes the rest to a nameless file in the temporary folder,
    which is gone when this is closed or the process dies.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        # Nothing here has to survive, so neither journal nor flush is paid for.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def first_line(self, row_id: str, line: int) -> int:
        """The line on which `row_id` came first: `line` itself if it is new. Errors: `BadInput` if the disk is full."""
        try:
            added = self._database.execute("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", (row_id, line))
            if added.rowcount == 1:
                return line
            found = self._database.execute("SELECT line FROM seen WHERE id = ?", (row_id,)).fetchone()
        except sqlite3.Error as error:
            raise BadInput(
                f"Cannot keep the list of ids seen so far in the temporary folder: {error}. "
                "Make room there, or set TMPDIR to a folder with some, and run the same command again."
            ) from error
        return int(found[0])

    def close(self) -> None:
        """Drop the list."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(slots=True)
class Chunk:
    """A stretch of the file: rows to send in one request, and the rows among them that are refused already."""

    position: int = 0
    """Bytes of the file read when the chunk was closed."""
    rows: list[Row] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def read_chunks(rows: Iterable[Row | Refusal], source: CsvSource, seen: SeenIds, *, batch_size: int) -> Iterator[Chunk]:
    """Chunks of at most `batch_size` rows, refused ones included, in the order of the file."""
    chunk, body_bytes = Chunk(), 0
    for row in rows:
        # A row that is refused holds its id too: which line counts must not depend on the service's answers.
        kept = _once(row, seen)
        added = len(kept.body) + 1 if isinstance(kept, Row) else 0
        full = len(chunk.rows) + len(chunk.refusals) >= batch_size
        if full or (chunk.rows and body_bytes + added > BODY_MAX_BYTES):
            chunk.position = source.position
            yield chunk
            chunk, body_bytes = Chunk(), 0
        if isinstance(kept, Row):
            chunk.rows.append(kept)
            body_bytes += added
        else:
            chunk.refusals.append(kept)
    chunk.position = source.position
    yield chunk


def _once(row: Row | Refusal, seen: SeenIds) -> Row | Refusal:
    if not row.id or not _encodable(row.id):
        return row
    first = seen.first_line(row.id, row.line)
    if first == row.line or isinstance(row, Refusal):
        return row
    return Refusal(row.line, row.id, f"this id is already on line {first}; the first line counts")


def _encodable(row_id: str) -> bool:
    """False for the id of a row that was refused because it is not UTF-8: the database could not hold it."""
    try:
        row_id.encode()
    except UnicodeEncodeError:
        return False
    return True

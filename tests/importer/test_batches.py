"""Rows to batches: bounded, and each id once."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from app.importer.batches import BODY_MAX_BYTES, Batch, each_id_once, read_batches
from app.importer.csv_file import CsvFile
from app.importer.errors import ImportStopped
from app.importer.rows import Rejected, Row


@pytest.fixture
def file(tmp_path: Path) -> Iterator[CsvFile]:
    path = tmp_path / "file.csv"
    path.write_bytes(b"x,y\n" * 50_000)
    with CsvFile(path) as opened:
        yield opened


def batches_of(rows: Iterable[Row | Rejected], file: CsvFile, batch_size: int) -> list[Batch]:
    return list(read_batches(rows, file, batch_size=batch_size))


def row(line: int, row_id: str, size: int = 10) -> Row:
    return Row(line, row_id, b"x" * size)


def test_batches_have_at_most_the_size_asked_for(file: CsvFile) -> None:
    """Rejected rows count as well: a file of nothing else must not be gathered in memory."""
    rows: list[Row | Rejected] = [row(n, str(n)) if n % 3 else Rejected(n, "", "bad") for n in range(1, 26)]
    batches = batches_of(rows, file, 10)
    assert [len(batch.rows) + len(batch.rejected) for batch in batches] == [10, 10, 5]
    assert [r.line for batch in batches for r in batch.rows] == [n for n in range(1, 26) if n % 3]


def test_batches_are_bounded_in_bytes(file: CsvFile) -> None:
    """Long names close a batch before the service's limit for a request does."""
    batches = batches_of([row(n, str(n), BODY_MAX_BYTES // 3) for n in range(7)], file, 1000)
    assert [len(batch.rows) for batch in batches] == [2, 2, 2, 1]
    single = batches_of([row(n, str(n), BODY_MAX_BYTES + 1) for n in range(2)], file, 1000)
    assert [len(batch.rows) for batch in single] == [1, 1]


def test_first_line_of_an_id_counts_across_batches(file: CsvFile) -> None:
    """Whichever request is answered first, the same line wins."""
    rows = [row(2, "a"), row(3, "b"), row(4, "A"), row(5, "a"), row(6, "a")]
    batches = batches_of(rows, file, 1)
    assert [r.line for batch in batches for r in batch.rows] == [2, 3, 4]
    rejected = [rejected for batch in batches for rejected in batch.rejected]
    assert [rejected.line for rejected in rejected] == [5, 6]
    assert all("already on line 2;" in rejected.reason for rejected in rejected)


def test_rejected_row_holds_its_id() -> None:
    """Which line counts does not depend on why the first one is rejected."""
    rows = each_id_once([Rejected(2, "a", "bad price"), row(3, "a"), Rejected(4, "a", "bad stock")])
    assert [r.reason[:9] for r in rows if isinstance(r, Rejected)] == ["bad price", "this id i", "bad stock"]


def test_rows_without_a_usable_id_keep_their_reason() -> None:
    """Empty ids and ids that are not UTF-8 were rejected for that."""
    rows = [Rejected(2, "", "id is empty"), Rejected(3, "", "id is empty"), Rejected(4, "\udcff", "not UTF-8")]
    assert list(each_id_once(rows)) == rows


def test_any_two_texts_are_told_apart() -> None:
    """Ids are compared as they are: case, spaces, NUL, composed characters, and the end of a long one make them different."""
    ids = ["a", "A", "a ", "a\0", "a\0b", "é", "e\u0301", "\u017f", "s", "x" * 64, "x" * 65, "x" * 100_000, "x" * 99_999 + "y"]
    rows = [row(line, row_id) for line, row_id in enumerate(ids)]
    assert list(each_id_once(rows)) == rows
    again = [row(99, row_id) for row_id in ids]
    assert [isinstance(r, Rejected) for r in each_id_once([*rows, *again])] == [False] * len(ids) + [True] * len(ids)


def test_ids_in_memory_are_bounded() -> None:
    """A file of more ids than that is to be split, and duplicates do not count."""
    rows = [row(1, "a"), row(2, "b"), row(3, "a")]
    assert len(list(each_id_once(rows, ids_max=2))) == 3
    with pytest.raises(ImportStopped, match="more than 2 ids"):
        list(each_id_once([*rows, row(4, "c")], ids_max=2))


def test_positions_rise_to_the_end(file: CsvFile) -> None:
    """What a batch says is done is what had been read when it was closed."""
    rows = (row(number, str(number)) for number, _ in enumerate(file.lines()))
    positions = [batch.position for batch in read_batches(rows, file, batch_size=1000)]
    assert all(earlier <= later for earlier, later in pairwise(positions))
    assert positions[0] < positions[-1] == 200_000

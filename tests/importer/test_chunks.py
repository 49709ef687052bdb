"""Rows to chunks: bounded, and each id once."""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from app.importer.chunks import BODY_MAX_BYTES, Chunk, SeenIds, read_chunks
from app.importer.errors import BadInput
from app.importer.rows import Refusal, Row
from app.importer.source import CsvSource


@pytest.fixture
def source(tmp_path: Path) -> Iterator[CsvSource]:
    path = tmp_path / "file.csv"
    path.write_bytes(b"irrelevant")
    with CsvSource(path) as opened:
        yield opened


def chunks_of(rows: Iterable[Row | Refusal], source: CsvSource, batch_size: int) -> list[Chunk]:
    with SeenIds() as seen:
        return list(read_chunks(rows, source, seen, batch_size=batch_size))


def row(line: int, row_id: str, size: int = 10) -> Row:
    return Row(line, row_id, b"x" * size)


def test_chunks_have_at_most_the_size_asked_for(source: CsvSource) -> None:
    """Refused rows count as well: a file of nothing else must not be gathered in memory."""
    rows: list[Row | Refusal] = [row(n, str(n)) if n % 3 else Refusal(n, "", "bad") for n in range(1, 26)]
    chunks = chunks_of(rows, source, 10)
    assert [len(chunk.rows) + len(chunk.refusals) for chunk in chunks] == [10, 10, 5]
    assert [r.line for chunk in chunks for r in chunk.rows] == [n for n in range(1, 26) if n % 3]


def test_chunks_are_bounded_in_bytes(source: CsvSource) -> None:
    """Long names close a chunk before the service's limit for a request does."""
    chunks = chunks_of([row(n, str(n), BODY_MAX_BYTES // 3) for n in range(7)], source, 1000)
    assert [len(chunk.rows) for chunk in chunks] == [2, 2, 2, 1]
    single = chunks_of([row(n, str(n), BODY_MAX_BYTES + 1) for n in range(2)], source, 1000)
    assert [len(chunk.rows) for chunk in single] == [1, 1]


def test_first_line_of_an_id_counts_across_chunks(source: CsvSource) -> None:
    """Whichever request is answered first, the same line wins."""
    rows = [row(2, "a"), row(3, "b"), row(4, "A"), row(5, "a"), row(6, "a")]
    chunks = chunks_of(rows, source, 1)
    assert [r.line for chunk in chunks for r in chunk.rows] == [2, 3, 4]
    refusals = [refusal for chunk in chunks for refusal in chunk.refusals]
    assert [refusal.line for refusal in refusals] == [5, 6]
    assert all("already on line 2;" in refusal.reason for refusal in refusals)


def test_refused_row_holds_its_id(source: CsvSource) -> None:
    """Which line counts does not depend on why the first one is refused."""
    chunks = chunks_of([Refusal(2, "a", "bad price"), row(3, "a"), Refusal(4, "a", "bad stock")], source, 10)
    assert chunks[0].rows == []
    assert [refusal.reason[:9] for refusal in chunks[0].refusals] == ["bad price", "this id i", "bad stock"]


def test_rows_without_a_usable_id_do_not_collide(source: CsvSource) -> None:
    """Empty ids and ids that are not UTF-8 were refused for that, and are not looked up."""
    rows = [Refusal(2, "", "id is empty"), Refusal(3, "", "id is empty"), Refusal(4, "\udcff", "not UTF-8")]
    assert chunks_of(rows, source, 10)[0].refusals == rows


def test_seen_ids_tell_any_two_texts_apart() -> None:
    """Ids are compared as they are: case, spaces, NUL and composed characters make them different."""
    ids = ["a", "A", "a ", "a\0", "a\0b", "é", "e\u0301", "\u017f", "s"]
    with SeenIds() as seen:
        assert [seen.first_line(row_id, line) for line, row_id in enumerate(ids)] == list(range(len(ids)))
        assert [seen.first_line(row_id, 99) for row_id in ids] == list(range(len(ids)))


def test_full_disk_under_the_list_of_ids_is_explained() -> None:
    """The import stops with advice, not with the database's own error."""
    with SeenIds() as seen:
        pages = seen._database.execute("PRAGMA page_count").fetchone()[0]
        seen._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(BadInput, match="TMPDIR") as caught:
            [seen.first_line(f"{line:032}", line) for line in range(10_000)]
    assert isinstance(caught.value.__cause__, sqlite3.Error)


def test_positions_rise_to_the_end(tmp_path: Path) -> None:
    """What a chunk says is done is what had been read when it was closed."""
    path = tmp_path / "file.csv"
    path.write_bytes(b"x,y\n" * 50_000)
    with CsvSource(path) as source, SeenIds() as seen:
        rows = (row(number, str(number)) for number, _ in enumerate(source.lines()))
        positions = [chunk.position for chunk in read_chunks(rows, source, seen, batch_size=1000)]
    assert all(earlier <= later for earlier, later in pairwise(positions))
    assert positions[0] < positions[-1] == 200_000

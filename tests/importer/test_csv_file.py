"""Files on disk: kinds, encodings, damage."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.importer.csv_file import LINE_MAX_BYTES, CsvFile
from app.importer.errors import ImportStopped

TEXT = "id,name\na,Mügge\r\nb,\u2028x\n"


def lines_of(path: Path) -> list[str]:
    with CsvFile(path) as file:
        return list(file.lines())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a mark"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_lines_of_plain_and_gzip_files(tmp_path: Path, mark: bytes, pack: Callable[[bytes], bytes]) -> None:
    """The kind is told by the content, not the name; the mark is no part of the first column's name."""
    path = tmp_path / "any.name"
    path.write_bytes(pack(mark + TEXT.encode()))
    assert lines_of(path) == ["id,name\n", "a,Mügge\r\n", "b,\u2028x\n"]


def test_bytes_that_are_not_utf8_stay_visible(tmp_path: Path) -> None:
    """One bad line does not end the reading; its bytes can be told from any text."""
    path = tmp_path / "latin.csv"
    path.write_bytes(b"id,name\na,M\xfcgge\nb,ok\n")
    assert lines_of(path) == ["id,name\n", "a,M\udcfcgge\n", "b,ok\n"]


def test_position_grows_to_the_size_of_the_file(tmp_path: Path) -> None:
    """Progress is in bytes of the file on disk, also when it is compressed."""
    path = tmp_path / "random.csv.gz"
    path.write_bytes(gzip.compress("\n".join(os.urandom(30).hex() for _ in range(20_000)).encode()))
    with CsvFile(path) as file:
        positions = [file.position for _ in file.lines()]
        assert positions == sorted(positions)
        assert 0 < positions[0] < positions[-1] / 2
        assert positions[-1] == file.size_bytes == path.stat().st_size


def cut_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(os.urandom(9000).hex(" ", 40).replace(" ", "\n").encode())[:-2000])


def flipped_gzip(path: Path) -> None:
    packed = bytearray(gzip.compress(TEXT.encode()))
    packed[-8] ^= 1
    path.write_bytes(packed)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: None, "No such file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.write_bytes(TEXT.encode("utf-16")), "iconv -f UTF-16"),
        (lambda path: path.write_bytes(b"PK\x03\x04rest"), "Save the sheet as CSV"),
        (lambda path: path.write_bytes(b"x" * (LINE_MAX_BYTES + 1)), "longer than"),
        (cut_gzip, "incomplete gzip"),
        (flipped_gzip, "damaged"),
    ],
    ids=["missing", "folder", "pipe", "utf-16", "workbook", "endless line", "cut gzip", "flipped gzip"],
)
def test_unreadable_file_is_explained(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    """No traceback, no waiting: the message says what is wrong with the file."""
    path = tmp_path / "file"
    make(path)
    with pytest.raises(ImportStopped, match=words):
        lines_of(path)

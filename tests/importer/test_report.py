"""The list of refused rows and the progress, apart from any import."""

import csv
import io
import os
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from app.importer.errors import ImportStopped
from app.importer.report import Progress, RejectedFile
from app.importer.rows import Rejected
from app.importer.sender import Outcome


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("id,name,price_cents\n")
    return path


def test_rejected_rows_are_listed_as_csv(tmp_path: Path, source: Path) -> None:
    """Any id or reason can be read back; bytes that were no text are shown escaped."""
    path = tmp_path / "refused.csv"
    with RejectedFile(path, source) as rejected:
        rejected.add([Rejected(2, 'a"b,c', "two\nlines"), Rejected(3, "M\udcfcg", "not UTF-8")])
        assert path.read_text().count("\n") == 3, "written at once, in case the process dies"
    assert path.read_text() == 'line,id,reason\n2,"a""b,c",two\\nlines\n3,M\\udcfcg,not UTF-8\n'


@pytest.mark.parametrize(
    ("cell", "listed"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("'quoted'", "''quoted'"),
        ("\x1b]0;title\x07mug", "\\x1b]0;title\\x07mug"),
        ("gum\u202egum", "gum\\u202egum"),
        ("\x9b31m", "\\x9b31m"),
        ("mug-blue", "mug-blue"),
        ("Tischtuch für 4, größer", "Tischtuch für 4, größer"),
    ],
)
def test_listed_cell_is_inert(cell: str, listed: str, tmp_path: Path, source: Path) -> None:
    """No id or reason is a formula or a terminal's command, and an ordinary one is listed as it is."""
    path = tmp_path / "refused.csv"
    with RejectedFile(path, source) as rejected:
        rejected.add([Rejected(2, cell, cell)])
    with path.open(newline="") as file:
        assert list(csv.reader(file))[1] == ["2", listed, listed]


def test_no_list_without_rejected_rows(tmp_path: Path, source: Path) -> None:
    """An older list is gone, too: it would be taken for this run's."""
    path = tmp_path / "refused.csv"
    path.write_text("line,id,reason\n2,a,old\n")
    with RejectedFile(path, source) as rejected:
        rejected.add([])
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("my diary"), "left alone"),
        (lambda path: path.write_text("line,id,reasons\n"), "left alone"),
        (lambda path: path.write_text("\n"), "left alone"),
        (lambda path: path.symlink_to("in.csv"), "is the file to import"),
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
    ],
)
def test_what_is_no_list_is_left_alone(tmp_path: Path, source: Path, make: Callable[[Path], object], words: str) -> None:
    """A slip in --refused costs no file; a pipe would hang, and a device must survive that an empty list is removed."""
    path = tmp_path / "refused.csv"
    make(path)
    before = path.read_bytes() if path.is_file() else path.stat().st_ino
    with pytest.raises(ImportStopped, match=words):
        RejectedFile(path, source)
    assert before == (path.read_bytes() if path.is_file() else path.stat().st_ino)


def test_list_that_cannot_be_written_is_said_first(tmp_path: Path, source: Path) -> None:
    """Before anything is imported."""
    with pytest.raises(ImportStopped, match="Nothing was imported"):
        RejectedFile(tmp_path / "no" / "such" / "folder.csv", source)


def test_full_disk_under_the_list_is_explained(tmp_path: Path, source: Path) -> None:
    """A rejected row that cannot be listed stops the import: it would be lost. What was listed stays."""
    path = tmp_path / "refused.csv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RejectedFile(path, source) as rejected:
        rejected.add([Rejected(2, "a", "listed")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
        try:
            with pytest.raises(ImportStopped, match="run the import again"):
                rejected.add([Rejected(3, "b", "not listed")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text().startswith("line,id,reason\n2,a,listed\n")


def test_pipe_gets_a_line_for_each_tenth() -> None:
    """A log gets ten lines, however many batches there are, and no bar; an empty file is no division by nothing."""
    lines: list[str] = []
    screen = io.StringIO()
    progress, counts = Progress(Console(file=screen), 1000, lines.append), Counter[Outcome]()
    Progress(Console(file=screen), 0, lines.append).advance_to(0, counts)
    with progress:
        for position in range(1, 1001):
            counts["created"] += 1
            progress.advance_to(position, counts)
    assert len(lines) == 10
    assert lines[0] == " 10 % read: 100 created, 0 updated, 0 unchanged, 0 refused"
    assert lines[-1] == "100 % read: 1,000 created, 0 updated, 0 unchanged, 0 refused"
    assert screen.getvalue() == ""


def test_terminal_gets_a_bar() -> None:
    """It shows bytes and counts, and no lines come between."""
    terminal, lines = io.StringIO(), list[str]()
    console = Console(file=terminal, force_terminal=True, width=120, color_system=None)
    counts = Counter[Outcome]({"updated": 1_234, "refused": 5})
    with Progress(console, 2_000, lines.append) as progress:
        progress.advance_to(1_000, counts)
    for words in ("1.0/2.0 kB", "1,234 updated", "5 refused"):
        assert words in terminal.getvalue()
    assert lines == []

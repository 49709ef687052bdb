"""The report of an import: counts, the list of rejected rows, and progress."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import rich.progress
from rich.console import Console

from app.importer.errors import ImportStopped
from app.importer.plain_text import inert
from app.importer.rows import Rejected
from app.importer.sender import OUTCOMES, Outcome

HEADER = ("line", "id", "reason")
_SHOWN_ID_CHARS = 200
_STEP_PERCENT = 10


class RejectedFile:
    """A CSV file of the rejected rows: line, id, reason. There is no file when no row was rejected.

    Raises:
        ImportStopped: it cannot be written, or an existing file of that name is not such a list.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self._empty = True
        try:
            if path.exists():
                _check_replaceable(path, source)
            # The file is opened before anything is sent, so that a list that cannot be written is noticed in time.
            self._file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise self._unwritable(error, "Name another file with --refused. Nothing was imported.") from error
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(HEADER)

    def add(self, rows: Sequence[Rejected]) -> None:
        """Append rows and flush them to the operating system, so that they survive the end of this process."""
        if not rows:
            return
        self._empty = False
        try:
            self._writer.writerows((row.line, inert(row.id[:_SHOWN_ID_CHARS]), inert(row.reason)) for row in rows)
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error, "Make room or name another file with --refused, and run the import again.") from error

    def _unwritable(self, error: OSError, cure: str) -> ImportStopped:
        return ImportStopped(f"Cannot write the list of refused rows to {self.path}: {error.strerror or error}. {cure}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Every row was flushed when it was added, so an error here was raised before, or concerns only the header.
        with suppress(OSError):
            self._file.close()
        if self._empty:
            self.path.unlink(missing_ok=True)


def _check_replaceable(path: Path, source: Path) -> None:
    """Raise ``ImportStopped`` for an existing file that is not the list of an earlier import."""
    if path.samefile(source):
        raise ImportStopped(f"--refused {path} is the file to import. Name another one.")
    if not path.is_file():
        # Not even /dev/null is accepted, because an empty list is removed at the end.
        raise ImportStopped(f"--refused {path} is not a regular file. Name one, or leave the option out.")
    with path.open("rb") as file:
        first_line = file.read(64).splitlines()[:1]
    if first_line not in ([], [",".join(HEADER).encode()]):
        raise ImportStopped(
            f"{path} exists and is not a list of refused rows, so it is left alone. "
            "Move it away, or name another file with --refused."
        )


def counts_text(counts: Counter[Outcome]) -> str:
    """Return the number of rows by outcome, as far as outcomes are known: ``2 created, 0 updated, …``."""
    return ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in OUTCOMES)


class Progress:
    """The progress of the import: a bar of bytes read on a terminal, otherwise a line of text for each tenth of the file."""

    def __init__(self, console: Console, size_bytes: int, say: Callable[[str], None]) -> None:
        self._is_terminal = console.is_terminal
        self._say = say
        self._size_bytes = max(1, size_bytes)
        self._next_percent = _STEP_PERCENT
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("Importing"),
            rich.progress.BarColumn(),
            rich.progress.DownloadColumn(),
            rich.progress.TextColumn("{task.fields[counts]}", markup=False),
            rich.progress.TimeRemainingColumn(),
            console=console,
            disable=not self._is_terminal,
        )
        self._task = self._bar.add_task("", total=size_bytes, counts="")

    def advance_to(self, position: int, counts: Counter[Outcome]) -> None:
        """Show that the rows up to this byte of the file are done."""
        self._bar.update(self._task, completed=position, counts=counts_text(counts))
        percent = position * 100 // self._size_bytes
        if not self._is_terminal and percent >= self._next_percent:
            self._next_percent = percent - percent % _STEP_PERCENT + _STEP_PERCENT
            self._say(f"{percent:3d} % read: {counts_text(counts)}")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

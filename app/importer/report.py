"""What the import tells: counts, the list of refused rows, progress."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from app.importer.errors import BadOutput
from app.importer.rows import Refusal
from app.importer.sender import OUTCOMES, Result

REFUSED_HEADER = ("line", "id", "reason")
_SHOWN_ID_CHARS = 200
_PLAIN_STEP_PERCENT = 10


class RefusedList:
    """A CSV file of the refused rows: line, id, reason. There is no file when no row was refused.

    Errors: `BadOutput` when it cannot be written, or when a file of that name holds anything else.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self._empty = True
        try:
            if path.exists() and path.samefile(source):
                raise BadOutput(f"--refused {path} is the file to import. Name another one.")
            if path.exists() and not path.is_file():
                # Not even /dev/null: an empty list is removed at the end.
                raise BadOutput(f"--refused {path} is not a regular file. Name one, or leave the option out.")
            if path.exists() and not _is_refused_list(path):
                raise BadOutput(
                    f"{path} exists and is not a list of refused rows, so it is left alone. "
                    "Move it away, or name another file with --refused."
                )
            # Opened before anything is sent: a list that cannot be written should not come to light after it.
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            raise BadOutput(
                f"Cannot write the list of refused rows to {path}: {error.strerror or error}. "
                "Name another file with --refused. Nothing was imported."
            ) from error
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(REFUSED_HEADER)

    def add(self, refusals: Sequence[Refusal]) -> None:
        """Append rows, and hand them to the operating system: they survive the end of this process."""
        if not refusals:
            return
        self._empty = False
        try:
            self._writer.writerows((row.line, row.id[:_SHOWN_ID_CHARS], row.reason) for row in refusals)
            self._file.flush()
        except OSError as error:
            raise BadOutput(
                f"Cannot write the list of refused rows to {self.path}: {error.strerror or error}. "
                "Make room or name another file with --refused, and run the import again."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Every row was flushed when it was added, so what fails here is already known, or is a header nobody needs.
        with suppress(OSError):
            self._file.close()
        if self._empty:
            self.path.unlink(missing_ok=True)


def _is_refused_list(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(64)
    return start.splitlines()[:1] in ([], [",".join(REFUSED_HEADER).encode()])


class Tally:
    """Rows of the file by outcome, as far as outcomes are known."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, results: Sequence[Result], refused_here: int) -> None:
        """Count a chunk: the service's results and the rows refused without asking it."""
        self._counts.update(result.outcome for result in results)
        self._counts["refused"] += refused_here

    @property
    def refused(self) -> int:
        """Rows refused, here or by the service."""
        return self._counts["refused"]

    @property
    def total(self) -> int:
        """Rows whose outcome is known."""
        return self._counts.total()

    def text(self) -> str:
        """`2 created, 0 updated, …` in a fixed order."""
        return ", ".join(f"{self._counts[outcome]:,} {outcome}" for outcome in OUTCOMES)


class ProgressDisplay(Protocol):
    """Shows how far the import is, and notices in between."""

    def advance_to(self, position: int, tally: Tally) -> None:
        """The rows up to this byte of the file are done."""

    def notice(self, message: str) -> None:
        """Say something that happened on the way."""


class PlainProgress:
    """Lines of text, one for each tenth of the file: for logs and pipes."""

    def __init__(self, write: Callable[[str], None], size_bytes: int) -> None:
        self._write = write
        self._size_bytes = max(1, size_bytes)
        self._next_percent = _PLAIN_STEP_PERCENT

    def advance_to(self, position: int, tally: Tally) -> None:
        """Write a line if another tenth is done."""
        percent = position * 100 // self._size_bytes
        if percent < self._next_percent:
            return
        self._next_percent = percent - percent % _PLAIN_STEP_PERCENT + _PLAIN_STEP_PERCENT
        self._write(f"{percent:3d} % read: {tally.text()}")

    def notice(self, message: str) -> None:
        """Write the message on a line of its own."""
        self._write(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to put away."""


class BarProgress:
    """A bar of bytes read, on a terminal."""

    def __init__(self, console: Console, size_bytes: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("Importing"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID = self._progress.add_task("", total=size_bytes, counts="")

    def advance_to(self, position: int, tally: Tally) -> None:
        """Move the bar and show the counts."""
        self._progress.update(self._task, completed=position, counts=tally.text())

    def notice(self, message: str) -> None:
        """Print the message above the bar."""
        print_plain(self._console, message)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()


def print_plain(console: Console, message: str) -> None:
    """Print text as it is: a file name or an id may hold brackets that rich would take for markup."""
    console.print(message, markup=False, highlight=False, emoji=False, soft_wrap=True)


def progress_for(console: Console, size_bytes: int) -> BarProgress | PlainProgress:
    """The bar on a terminal, lines otherwise."""
    if console.is_terminal:
        return BarProgress(console, size_bytes)
    return PlainProgress(lambda message: print_plain(console, message), size_bytes)

"""What a replay writes down: a file of JSON lines, each about one request."""

import json
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.importer.errors import ImportStopped
from benchmarks.sales.invoices import Invoice

_MARK = b'{"replay_run": '


class RunLog:
    """A file of JSON lines: a request that was refused, for example, on each. Without such a request, no file.

    Raises:
        ImportStopped: a file of that name holds anything else, or it cannot be written.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self._path = path
        self._run_id = run_id
        self._empty = True
        try:
            if path.exists() and not (path.is_file() and path.read_bytes()[: len(_MARK)] in {b"", _MARK}):
                raise ImportStopped(f"{path} exists and was not written by a replay, so it is left alone. Name another file.")
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ImportStopped(f"Cannot write {path}: {error.strerror or error}") from error

    def add(self, invoice: Invoice, repetition: int, **members: object) -> None:
        """Append a request, and hand it to the operating system: it survives the end of this process."""
        self._empty = False
        entry = {
            # First, as the mark by which a later run knows that the file may be replaced.
            "replay_run": self._run_id,
            "repetition": repetition,
            "invoice": invoice.number,
            "part": invoice.part,
            "first_line": invoice.lines[0].line,
            "last_line": invoice.lines[-1].line,
            **members,
        }
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._file.close()
        if self._empty:
            self._path.unlink(missing_ok=True)

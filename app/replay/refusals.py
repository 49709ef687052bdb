"""The list of invoices that were not accepted: JSON lines, one for each request."""

import json
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from app.importer.errors import BadOutput
from app.replay.adjustments import Adjustment

_MARK = b'{"replay_run": '


class RefusalLog:
    """A file of JSON lines: a request that was refused, or whose fate is unknown, on each. No such request, no file.

    Errors: `BadOutput` when it cannot be written, or when a file of that name holds anything else.
    """

    def __init__(self, path: Path, source: Path, run_id: str) -> None:
        self.path = path
        self.empty = True
        self._run_id = run_id
        try:
            if path.exists():
                self._check(path, source)
            # Opened before anything is sent: a list that cannot be written should not come to light after it.
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise BadOutput(
                f"Cannot write the list of refusals to {path}: {error.strerror or error}. "
                "Name another file with --refused. Nothing was replayed."
            ) from error

    @staticmethod
    def _check(path: Path, source: Path) -> None:
        if path.samefile(source):
            raise BadOutput(f"--refused {path} is the file to replay. Name another one.")
        if not path.is_file():
            raise BadOutput(f"--refused {path} is not a regular file. Name one, or leave the option out.")
        with path.open("rb") as file:
            start = file.read(len(_MARK))
        if start not in (b"", _MARK):
            raise BadOutput(
                f"{path} exists and is not a list of a replay's refusals, so it is left alone. "
                "Move it away, or name another file with --refused."
            )

    def add(
        self,
        adjustment: Adjustment,
        repetition: int,
        outcome: Literal["refused", "unknown"],
        *,
        status: int | None,
        problem: Any,
    ) -> None:
        """Append a request, and hand it to the operating system: it survives the end of this process."""
        entry = {
            # First, as the mark by which a later run knows that the file may be replaced.
            "replay_run": self._run_id,
            "repetition": repetition,
            "invoice": adjustment.invoice,
            "part": adjustment.part,
            "first_line": adjustment.lines[0].line,
            "last_line": adjustment.lines[-1].line,
            "outcome": outcome,
            "status": status,
            "problem": problem,
        }
        self.empty = False
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise BadOutput(
                f"Cannot write the list of refusals to {self.path}: {error.strerror or error}. Make room, or name another "
                f"file with --refused, and replay again with --run-id {self._run_id}."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Every entry was flushed when it was added, so what fails here is already known.
        with suppress(OSError):
            self._file.close()
        if self.empty:
            self.path.unlink(missing_ok=True)

"""The common form of every measurement: each benchmark writes ``benchmarks/results/<name>.json``, the report reads them all."""

import datetime as dt
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

DIRECTORY = Path(__file__).with_name("results")

Cell = str | int | float | bool | None | Sequence[object]
"""A figure or a word; a list (a curve for a plot) is kept in the file and left out of the table."""


def command() -> str:
    """Return the command line of this process as one would type it, with a file of an absolute path by its name alone."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    words = ["-m", specification.name.removesuffix(".__main__")] if specification else [sys.argv[0]]
    given = [word.rpartition("/")[2] if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["python", *words, *given])


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and what became of it: ``Target("cached GET, of the ceiling", ">= 65 %", "68 % (66-71 %)", passed=True)``."""

    claim: str
    target: str
    measured: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found.

    Attributes:
        name: the file's name without its suffix; the report's order goes by it.
        title: the heading in the report.
        rows: one table, a row each; all rows have the same columns, whose names carry their units (``p99_ms``).
        targets: what the benchmark decides about.
        notes: sentences for the reader: what was skipped, what a column means.
        command: what was called.
        at: when it ended, ISO 8601 in UTC.
    """

    name: str
    title: str
    rows: Sequence[Mapping[str, Cell]]
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    command: str = field(default_factory=command)
    at: str = field(default_factory=lambda: dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"))


def write(result: Result, directory: Path = DIRECTORY) -> Path:
    """Write a result over the former one of its name; the file."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
    return path


def read(path: Path) -> Result:
    """Read what ``write`` wrote. Raises ``OSError``, ``ValueError``, ``TypeError`` (not a result)."""
    found = json.loads(path.read_text())
    found["targets"] = [Target(**target) for target in found["targets"]]
    return Result(**found)


def read_all(directory: Path = DIRECTORY) -> dict[str, Result]:
    """Read every result that there is, by name."""
    return {path.stem: read(path) for path in sorted(directory.glob("*.json"))}

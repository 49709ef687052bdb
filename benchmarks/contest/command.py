"""The command line that the contests share: how many rounds, how long, and what is done with the result."""

import argparse
import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contest.contest import Outcome, Ratio
from benchmarks.results import Cell, Result, Target, write
from benchmarks.tables import markdown

LOOKED_AT = (
    "Before and after each run, 25 bodies are compared with the database."
    " Least and most are those of the rounds; of a ratio, round by round."
)


@dataclass(frozen=True, slots=True)
class Options:
    """Rounds, whole seconds of each measured run, and a trace of accesses, if there is one."""

    rounds: int
    seconds: int
    trace: Path | None


def say(line: str) -> None:
    """Print a line now."""
    print(line, flush=True)


def main(measure: Callable[[Options], Awaitable[Result]], description: str | None) -> int:
    """Read the arguments, measure, write the result and print it; the exit status.

    A missed target is a result like any other: the status is 0 all the same.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measured run, whole ones (%(default)s)")
    parser.add_argument("--trace", type=Path, help="accesses as an xz of big-endian int32 keys")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        print("The benchmarks need wrk (a package of that name in Debian and others).", file=sys.stderr)
        return 1
    result = asyncio.run(_awaited(measure(Options(given.rounds, given.seconds, given.trace))))
    path = write(result)
    say(f"\n{result.title}\n\n{markdown(result.rows)}\n")
    for note in result.notes:
        say(f"- {note}")
    for target in result.targets:
        say(f"{'pass' if target.passed else 'MISS'}  {target.claim}: {target.measured}, to reach: {target.target}")
    say(f"-> {path}")
    return 0


async def _awaited(measuring: Awaitable[Result]) -> Result:
    return await measuring


def row(outcome: Outcome) -> dict[str, Cell]:
    """Return the columns that every contest has."""
    return {
        "workload": outcome.case.workload,
        "contender": outcome.case.contender.label,
        "requests/s": outcome.rate,
        "least": None if outcome.rate is None else min(outcome.rates),
        "most": None if outcome.rate is None else max(outcome.rates),
        "p50_ms": outcome.latency(lambda measured: measured.p50_ms),
        "p99_ms": outcome.latency(lambda measured: measured.p99_ms),
        "counts": "yes" if not outcome.faults else f"NO: {outcome.faults[0]}",
    }


def format_ratio(found: Ratio | None, *, percent: bool = False) -> str | None:
    """Return the text of a ratio for a cell; ``None`` if there is no ratio."""
    return None if found is None else found.percent() if percent else str(found)


def at_least(claim: str, reach: float, found: Ratio | None, *, percent: bool = False) -> Target:
    """Return the target that the median of a ratio reaches ``reach``."""
    target = f"≥ {reach:.0%}" if percent else f"≥ {reach:g}×"
    if found is None:
        return Target(claim, target, "does not count: see the table", passed=False)
    return Target(claim, target, format_ratio(found, percent=percent) or "", passed=found.middle >= reach)

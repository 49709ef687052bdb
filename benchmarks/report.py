"""``python -m benchmarks.report [COMMAND]``: RESULTS.md and the plots, from whatever results there are; prints the targets."""

import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from benchmarks import ratios
from benchmarks.machine import machine
from benchmarks.peers.environment import PYTHON, set_up
from benchmarks.results import DIRECTORY, Result, Target, read_all
from benchmarks.tables import markdown
from tests.harness.cluster import ROOT

RESULTS = Path(__file__).with_name("RESULTS.md")
ORDER = ("reads", "latency", "trace", "ycsb", "writes", "headline", "components", "holds", "soak")
"""The order of the report's sections. Results that are not named here come last."""


def ordered(results: Mapping[str, Result]) -> list[Result]:
    """Give the results in the report's order."""
    return sorted(results.values(), key=lambda result: ORDER.index(result.name) if result.name in ORDER else len(ORDER))


def report(results: Mapping[str, Result], described: Mapping[str, str], command: str, ran: Collection[str]) -> str:
    """Write the report.

    Args:
        results: by name.
        described: the machine, a line each.
        command: what was called to get all of them.
        ran: the names of those that the command measured.
    """
    found = ordered(results)
    parts = [
        "# Results\n\nWritten by `make bench`; [docs/PERFORMANCE.md](../docs/PERFORMANCE.md) tells how to read it.",
        f"`{command}`, ended {max((result.at for result in found), default='never')}.",
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in described.items()),
        "## Targets\n\n" + markdown([_told(target) for result in found for target in result.targets]),
        "## Ratios to reach next\n\n" + ratios.table(results, ran),
    ]
    for result in found:
        parts.append(f"## {result.title}\n\n`{result.command}`, {result.at}")
        if result.rows:
            parts.append(markdown(result.rows))
        if result.notes:
            parts.append("\n".join(f"- {note}" for note in result.notes))
    return "\n\n".join(parts) + "\n"


def verdicts(results: Mapping[str, Result]) -> str:
    """Give a line for each target."""
    targets = [target for result in ordered(results) for target in result.targets]
    return "\n".join(f"{_word(target)}  {target.claim}: {target.measured} (to reach: {target.target})" for target in targets)


def _told(target: Target) -> dict[str, str]:
    return {"": _word(target), "claim": target.claim, "to reach": target.target, "measured": target.measured}


def _word(target: Target) -> str:
    return "pass" if target.passed else "MISS"


def write(command: str, ran: Collection[str] | None = None) -> int:
    """Write the report and print its verdicts and ratios; return the exit status. ``ran`` is everything if not given."""
    set_up()
    results = read_all()
    if not results:
        print(f"There are no results in {DIRECTORY}.", file=sys.stderr)
        return 1
    ran = results if ran is None else ran
    RESULTS.write_text(report(results, machine(), command, ran))
    subprocess.run([str(PYTHON), "-m", "benchmarks.plots"], check=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    print(verdicts(results))
    print(f"\n{ratios.table(results, ran)}\n")
    print(f"-> {RESULTS}")
    return 0


def main() -> int:
    """Write the report from all results that there are."""
    return write(" ".join(sys.argv[1:]) or "make bench")


if __name__ == "__main__":
    sys.exit(main())

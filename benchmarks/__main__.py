"""``python -m benchmarks``: every benchmark that there is, one after the other, then the report. `make bench` calls it."""

import argparse
import subprocess
import sys
import time

from benchmarks import report
from benchmarks.results import DIRECTORY
from tests.harness.cluster import ROOT

CONTESTS = ("reads", "trace", "ycsb", "writes")
"""They take the options."""
STEADY = ("latency", "headline", "components", "blocked", "healing", "holds")


def main() -> int:
    """Run what was asked for; return 1 if one of them did not come to a result. A missed target is a result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each contest (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="of each measured run of a contest (%(default)s)")
    parser.add_argument("--trace", help="accesses as an xz of big-endian int32 keys, for the contest along a trace")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=(*CONTESTS, *STEADY), help="these alone")
    given = parser.parse_args()
    options = ["--rounds", str(given.rounds), "--seconds", str(given.seconds)]
    began, failed = time.monotonic(), []
    for name in given.only or (*CONTESTS, *STEADY):
        print(f"\n== {name}, after {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        result = DIRECTORY / f"{name}.json"
        result.unlink(missing_ok=True)
        trace = ["--trace", given.trace] if given.trace and name == "trace" else []
        module = f"benchmarks.contest.{name}" if name in CONTESTS else f"benchmarks.steady.{name}"
        command = [sys.executable, "-m", module, *(options if name in CONTESTS else []), *trace]
        subprocess.run(command, check=False, cwd=ROOT, stdin=subprocess.DEVNULL)
        if not result.exists():
            failed.append(name)
    print(f"\n== report, after {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    status = report.write(_typed(given), ran=given.only or (*CONTESTS, *STEADY))
    if failed:
        print(f"Without a result: {', '.join(failed)}", file=sys.stderr)
    return status or int(bool(failed))


def _typed(given: argparse.Namespace) -> str:
    """Give the command as one would type it, with the trace by its name alone."""
    words = [f"ROUNDS={given.rounds}", f"SECONDS={given.seconds}"]
    if given.trace:
        words.append(f"TRACE={given.trace.rpartition('/')[2]}")
    if given.only:
        words.append(f'ARGS="--only {" ".join(given.only)}"')
    return f"make bench {' '.join(words)}"


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.simulation --seeds N --start S``: simulate many histories of the shipped cache code."""

# ruff: noqa: T201 - a command's answer is what it prints

import argparse
import sys
import time
from collections import Counter

from tests.simulation.runner import simulate


def main() -> int:
    """Simulate, print the counts, and show the first bad history; 1 if there was one."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many histories")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    parser.add_argument("--trace", action="store_true", help="print the whole trace of each history")
    parser.add_argument("--digests", action="store_true", help="print what tells one history from another")
    arguments = parser.parse_args()
    began = time.perf_counter()
    totals: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    bad: list[int] = []
    for seed in range(arguments.start, arguments.start + arguments.seeds):
        outcome = simulate(seed, trace=arguments.trace)
        verdict = outcome.verdict
        totals.update(outcome.counts)
        statuses.update(verdict.statuses)
        totals.update({
            "reads": verdict.reads, "reads checked": verdict.checked, "reads bound by a write": verdict.bound,
            "unflagged hits": verdict.hits, "writes acknowledged": verdict.acknowledged, "steps": outcome.steps,
        })  # fmt: skip
        totals.update({f"reads checked of {table}": number for table, number in verdict.checked_of.items()})
        if arguments.digests:
            print(f"{seed} {outcome.digest}")
        if arguments.trace:
            print(*outcome.trace, sep="\n")
        if outcome.bad:
            bad.append(seed)
            if len(bad) == 1:
                print(f"seed {seed} is bad: {outcome.first()}", *simulate(seed, trace=True).trace, sep="\n")
            print(f"seed {seed}: {outcome.first()}", *outcome.broken[:3], sep="\n  ")
    took_s = time.perf_counter() - began
    for name, count in sorted((totals + Counter({f"read {status}": n for status, n in statuses.items()})).items()):
        print(f"{name:32} {count:12,}")
    print(f"{arguments.seeds} seeds from {arguments.start} in {took_s:.1f} s: {len(bad)} bad {bad[:20]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

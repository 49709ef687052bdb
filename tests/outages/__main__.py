"""``python -m tests.outages --minutes N [--seed S]``: exit status 0 when nothing was violated."""

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path

from tests.harness import loop
from tests.harness.servers import session_directory
from tests.outages.run import Outcome, run
from tests.outages.summary import table


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _main(minutes: float, seed: int, policies: str) -> Outcome:
    async with session_directory() as directory:
        return await run(directory, seconds=minutes * 60, seed=seed, policies=policies, say=_say)


def main() -> int:
    """Run the outages, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.outages", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="of the faults and the clients (default: by chance)")
    parser.add_argument(
        "--policies",
        default="",
        metavar="NAMES",
        help="draw the policy of every write from these, separated by commas (default: all)",
    )
    parser.add_argument("--save", type=Path, help="where to write the history when something is violated")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    _say(f"Outages for {arguments.minutes:g} minutes, seed {seed}")
    outcome = loop.run(_main(arguments.minutes, seed, arguments.policies))
    _say(table(outcome))
    if not outcome.violations:
        return 0
    path = arguments.save or Path(tempfile.gettempdir()) / f"larder-outages-{seed}.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in outcome.dump))
    _say("\n  ".join([f"\n{len(outcome.violations)} violations; the first ones:", *outcome.violations[:10]]))
    _say("\n  ".join(["\nEverything about the first one's key, seconds from 3 s before:", *outcome.excerpt]))
    _say(f"\nThe history of the last round is in {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.outages.drills NAME [--products N]``: exit status 0 when everything is as promised."""

import argparse
import sys
import time

from tests.harness import loop
from tests.harness.servers import session_directory
from tests.outages.drills.index import DRILLS
from tests.outages.scenarios.report import Report


async def _main(name: str, products: int) -> Report:
    report = Report()
    async with session_directory() as directory:
        began = time.monotonic()
        await DRILLS[name](directory, products, report)
        report.tell("seconds of the whole drill", time.monotonic() - began)
    return report


def main() -> int:
    """Carry out the drill that the command line names, print the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.outages.drills", description=__doc__)
    parser.add_argument("name", choices=DRILLS, help="which one", metavar="NAME")
    parser.add_argument("--products", type=int, default=100_000, help="further products in the database (default: 100000)")
    arguments = parser.parse_args()
    report = loop.run(_main(arguments.name, arguments.products))
    sys.stdout.write(f"{arguments.name}\n{report.table()}\n")
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.outages.scenarios NAME [--seconds N]``: exit status 0 when everything is as promised."""

import argparse
import sys

from tests.harness import loop
from tests.harness.servers import session_directory
from tests.outages.scenarios.index import SCENARIOS
from tests.outages.scenarios.report import Report


async def _main(name: str, seconds: float | None) -> Report:
    scenario = SCENARIOS[name]
    report = Report()
    async with session_directory() as directory:
        await scenario.run(directory, seconds or scenario.seconds, report)
    return report


def main() -> int:
    """Run the scenario that the command line names, print the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.outages.scenarios", description=__doc__)
    parser.add_argument("name", choices=SCENARIOS, help="which one", metavar="NAME")
    parser.add_argument("--seconds", type=float, help="how long under load (default: the scenario's own)")
    parser.epilog = "; ".join(f"{name}: {scenario.text} ({scenario.seconds:g} s)" for name, scenario in SCENARIOS.items())
    arguments = parser.parse_args()
    report = loop.run(_main(arguments.name, arguments.seconds))
    verdict = f"{len(report.broken)} promises broken" if report.broken else "as promised"
    sys.stdout.write(f"{arguments.name}: {verdict}\n{report.table()}\n")
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())

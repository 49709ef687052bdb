"""``python -m tests.outages.old_release WHAT --old DIRECTORY``: scenarios with an earlier release in its own checkout.

``roll`` deploys this checkout over release 0.1.0; ``namespaces`` runs that release with two cache namespaces; ``format``
deploys this checkout over release 0.2, whose slots have another form. Each prints its figures; exit status 0 when every promise
was kept.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from tests.harness import loop
from tests.harness.servers import session_directory
from tests.outages.release import Release
from tests.outages.scenarios import earlier_format, rolling_deploy, two_namespaces
from tests.outages.scenarios.report import Report

_REVISION = "0002"
"""The last migration of release 0.1.0."""


async def _main(what: str, old: Release, seconds: float) -> Report:
    report = Report()
    async with session_directory() as directory:
        if what == "roll":
            await rolling_deploy.deploy(directory, seconds, report, old, Release(), revision=_REVISION)
        elif what == "format":
            await earlier_format.deploy(directory, seconds, report, replace(old, knows_keys=True), Release())
        else:
            await two_namespaces.compare(directory, seconds, report, old, revision=_REVISION)
    return report


def main() -> int:
    """Run the scenario that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.outages.old_release", description=__doc__)
    parser.add_argument("what", choices=("roll", "namespaces", "format"))
    parser.add_argument("--old", type=Path, required=True, metavar="DIRECTORY", help="a checkout of the earlier release")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long under load")
    arguments = parser.parse_args()
    report = loop.run(_main(arguments.what, Release(arguments.old.resolve(), knows_keys=False), arguments.seconds))
    sys.stdout.write(f"{report.table()}\n")
    return int(bool(report.broken))


if __name__ == "__main__":
    sys.exit(main())

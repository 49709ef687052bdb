"""All drills by name."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from tests.outages.drills import dump, recovery, upgrade
from tests.outages.scenarios.report import Report

Drill = Callable[[Path, int, Report], Awaitable[None]]
"""Carries a drill out in an empty directory, with as many further products, and reports."""

DRILLS: Mapping[str, Drill] = {
    "dump": dump.run,
    "point-in-time": recovery.run,
    **{
        f"upgrade-{revision}": partial(upgrade.run_from, revision)
        for revision in ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
    },
    "back": upgrade.run_back,
}

"""All drills by name."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from app.postgres.migrations import script_directory
from tests.outages.drills import dump, recovery, upgrade
from tests.outages.scenarios.report import Report

Drill = Callable[[Path, int, Report], Awaitable[None]]
"""Carries a drill out in an empty directory, with as many further products, and reports."""

*_EARLIER, _HEAD = sorted(script.revision for script in script_directory().walk_revisions())

DRILLS: Mapping[str, Drill] = {
    "dump": dump.run,
    "point-in-time": recovery.run,
    **{f"upgrade-{revision}": partial(upgrade.run_from, revision) for revision in _EARLIER},
    "back": upgrade.run_back,
}

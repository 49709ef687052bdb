"""Tests that carry out every drill of docs/RECOVERY.md with few products."""

from pathlib import Path

import pytest

from tests.outages.drills.index import DRILLS
from tests.outages.scenarios.report import Report

_PRODUCTS = 1_000
_SHORT = frozenset({"dump", "upgrade-0006", "back"})
"""The drills that run for every change; the others differ from them in the revision or the kind of copy."""


@pytest.mark.guarantee("G1")
@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in _SHORT else pytest.mark.long) for name in DRILLS])
async def test_drill(outage_directory: Path, name: str) -> None:
    """The commands of the page succeed as they stand there, and no client ever sees what the restore took back."""
    report = Report()
    await DRILLS[name](outage_directory, _PRODUCTS, report)
    assert not report.broken, report.table()

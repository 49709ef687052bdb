"""Tests that run every scenario of ``python -m tests.outages.scenarios`` for a few seconds."""

from pathlib import Path

import pytest

from tests.outages.scenarios.index import SCENARIOS
from tests.outages.scenarios.report import Report


@pytest.mark.guarantee("G1", "G3", "G4")
@pytest.mark.alone
@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(outage_directory: Path, name: str) -> None:
    """Everything that the scenario's page in docs/PROOF.md promises is kept, for as long as it runs here."""
    scenario, report = SCENARIOS[name], Report()
    await scenario.run(outage_directory, scenario.short_s, report)
    assert not report.broken, report.table()


def test_a_promise_that_is_not_kept_is_reported() -> None:
    """A figure beyond its bound is broken and marked in the table; one at its bound is kept."""
    report = Report()
    report.at_most("at its bound", 2.5, 2.5)
    report.at_least("at its bound, too", 95.0, 95)
    report.tell("only told", 7)
    assert report.broken == []
    report.none("none was promised", ["one"])
    assert [figure.text for figure in report.broken] == ["none was promised"]
    assert "BROKEN" in report.table()
    assert "none was promised: one" in report.table()

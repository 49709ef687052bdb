"""A test of random faults for a short time. `make chaos MINUTES=n` runs them for longer."""

from pathlib import Path

import pytest

from tests.outages.run import run
from tests.outages.summary import table

SEED = 20_101_201
SECONDS = 40.0
NEAR = "larder_cache_near_slots_total"


@pytest.mark.guarantee("G1", "G2", "G3", "G4")
@pytest.mark.alone
async def test_faults_by_chance_never_show_the_past(outage_directory: Path) -> None:
    """G1 to G4 and liveness hold on real servers during faults of every layer, and the run was not idle."""
    outcome = await run(outage_directory, seconds=SECONDS, seed=SEED)
    assert not outcome.violations, "\n".join([*outcome.violations[:5], *outcome.excerpt, table(outcome)])
    assert outcome.faults.total() >= 10, table(outcome)
    assert outcome.counts["reads checked"] >= 3_000, table(outcome)
    assert outcome.counts["unflagged hits"] >= outcome.counts["reads checked"] * 0.3, table(outcome)
    assert outcome.counts["reads on keys whose publish failed in the last 5 s"] > 0, table(outcome)
    assert outcome.metrics[NEAR] >= 500, table(outcome)
    assert outcome.counts["live: of these while something was broken elsewhere"] > 0, table(outcome)

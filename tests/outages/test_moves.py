"""The long forms of scenarios in which the cache moves: to another namespace, and to another Redis with copied keys."""

import logging
from pathlib import Path

import pytest

from tests.outages.scenarios.index import SCENARIOS
from tests.outages.scenarios.report import Report

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.long, pytest.mark.guarantee("G1")]

_ROLLS = 10
_MOVING_S = 240.0


async def test_many_rolls_to_another_namespace(outage_directory: Path) -> None:
    """In each of ten rolling deploys to another namespace no read is in the past, and the old instances hit to the end."""
    for number in range(_ROLLS):
        directory, report = outage_directory / str(number), Report()
        directory.mkdir()
        await SCENARIOS["namespace-roll"].run(directory, 18, report)
        log.info("roll %d\n%s", number, report.table())
        assert not report.broken, report.table()


async def test_many_moves_with_copied_keys(outage_directory: Path) -> None:
    """Keys are copied one by one between two servers, to and fro: no read is in the past."""
    report = Report()
    await SCENARIOS["copied-keys"].run(outage_directory, _MOVING_S, report)
    log.info("%s", report.table())
    assert not report.broken, report.table()

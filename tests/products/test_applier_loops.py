"""The background work of accepted writes survives every error: an outage is logged once, a defect is counted each time."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.cache.stats import Stats
from app.postgres.errors import DatabaseUnavailable
from app.products import applier as applier_module
from app.products.accepted import AcceptedStats
from app.products.applier import Applier, keep_measured
from app.products.transaction import Committed

LOGGER = "app.products.applier"


class Work:
    """Fails with ``fault`` while there is one, and counts its calls."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.calls = 0

    async def apply(self, _only: int | None = None) -> Committed:
        self._call()
        return Committed([], [])

    async def measure(self) -> None:
        self._call()

    def _call(self) -> None:
        self.calls += 1
        if self.fault is not None:
            raise self.fault

    async def times(self, number: int) -> None:
        """Wait for more calls."""
        wanted = self.calls + number
        async with asyncio.timeout(10):
            while self.calls < wanted:
                await asyncio.sleep(0.001)


async def _fail(_seq: int, _reason: str) -> bool:
    raise AssertionError("nothing is marked")


@asynccontextmanager
async def running(kind: str, work: Work, errors: Stats) -> AsyncIterator[None]:
    if kind == "measure":
        task = asyncio.create_task(keep_measured(work.measure, errors, pause_s=0.001))
    else:
        task = asyncio.create_task(Applier(work.apply, _fail, AcceptedStats(), errors).run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=["apply", "measure"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(applier_module, "PAUSE_S", 0.001)
    return str(request.param)


async def test_an_outage_is_no_defect(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The work goes on, nothing is counted, and the log is not flooded."""
    caplog.set_level(logging.INFO, LOGGER)
    work, errors = Work(), Stats()
    async with running(kind, work, errors):
        work.fault = DatabaseUnavailable("away")
        await work.times(20)
        work.fault = None
        await work.times(2)
    assert errors.unexpected == 0
    assert 1 <= len(_lines(caplog)) <= 3


async def test_a_defect_is_counted_each_time(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the traceback in the log, and not once for each time."""
    work, errors = Work(), Stats()
    async with running(kind, work, errors):
        work.fault = KeyError("a defect")
        await work.times(20)
        work.fault = None
        await work.times(2)
    assert errors.unexpected >= 20
    lines = _lines(caplog)
    assert 1 <= len(lines) <= 3
    assert all(line.exc_info for line in lines)


async def test_each_outage_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The backlog could be measured in between: the next failure is another outage."""
    caplog.set_level(logging.INFO, LOGGER)
    work = Work()
    async with running("measure", work, Stats()):
        for _ in range(2):
            work.fault = DatabaseUnavailable("away")
            await work.times(5)
            work.fault = None
            await work.times(2)
    assert len(_lines(caplog)) == 2


def _lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == LOGGER]

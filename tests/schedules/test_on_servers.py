"""Tests that run the same schedules on real servers, which shows that the fakes behave like Redis and PostgreSQL."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.cache.rig import LONG_FENCE
from tests.limits import cache_config
from tests.schedules import audits, traffic
from tests.schedules.on_fakes import FENCE_S, FakeStage
from tests.schedules.on_servers import ServerStage
from tests.schedules.stage import Member, Stage, schedules_of

Schedule = Callable[[Stage[Member]], Awaitable[None]]

LAPSES = {
    traffic.publish_is_lost,
    traffic.settling_without_the_database,
    traffic.write_goes_around_the_slot,
    traffic.slot_of_an_epoch_that_ended,
    traffic.publish_onto_a_slot_of_an_epoch_that_ended,
    audits.audit_sets_its_fence_late,
    audits.audit_under_way_during_a_commit,
    audits.cycle_outlasts_its_fence,
    audits.lease_outlives_the_audit,
    audits.shorter_fence_is_announced,
}
"""Schedules that wait until a fence has expired. In the others no fence may expire, however slow the machine is."""
SHORT_FENCE = cache_config(
    audit_interval_ms=2, fence_ttl_ms=int(FENCE_S * 1000), fence_ttl_max_ms=int(FENCE_S * 1000), settle_poll_ms=20
)


def plays_on_servers(schedule: Any) -> bool:
    """Return whether a schedule can run on real servers."""
    return inspect.signature(schedule).parameters["stage"].annotation is not FakeStage


SCHEDULES = [schedule for module in (audits, traffic) for schedule in schedules_of(module) if plays_on_servers(schedule)]


@pytest.mark.guarantee("R2", "R3", "R4", "R5", "R6", "R7", "R8", "R10")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
async def test_shipped_code_on_a_schedule(redis_url: str, database_url: str, namespace: str, schedule: Schedule) -> None:
    """No read is stale, and every answer is the one that the schedule expects."""
    config = SHORT_FENCE if schedule in LAPSES else LONG_FENCE
    async with asyncio.timeout(60), ServerStage(redis_url, database_url, namespace, config) as stage:
        await schedule(stage)
        assert stage.violations == []
        assert stage.unmet == []

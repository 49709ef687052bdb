"""Goals of liveness: while one instance reaches both servers the cache is trusted, whatever becomes of the others."""

import asyncio
from dataclasses import replace

import pytest

from app.cache.config import CacheConfig
from tests.schedules.on_fakes import FakeStage, play
from tests.simulation.mutant_history import ClaimsInStep, KeepsStep
from tests.simulation.mutant_redis import KeepsClaims
from tests.simulation.parts import SHIPPED, Parts

STEP_S = 0.05
DARK_S = 1.0
"""Longest time without a fence that counts as none: an audit that failed may cost so much."""


def as_in_production(config: CacheConfig) -> CacheConfig:
    """Audits twice a second, as the settings have it."""
    return replace(config, audit_interval_ms=500)


REAL = replace(SHIPPED, config=as_in_production)
TAKES_EVERYTHING = replace(REAL, redis=KeepsClaims, audit=ClaimsInStep, loop=KeepsStep)
"""An instance that fails keeps its claim, and comes back in step: the others never get one."""


async def darkness(stage: FakeStage, seconds: float) -> float:
    """The longest time without a live fence."""
    longest = dark = 0.0
    for _ in range(int(seconds / STEP_S)):
        await asyncio.sleep(STEP_S)
        dark = 0.0 if stage.red._live_fence() else dark + STEP_S
        longest = max(longest, dark)
    return longest


def longest_darkness(parts: Parts, *, loses_redis: bool = False) -> float:
    """Return how long the cache is not trusted when the auditing one of three instances loses one of its servers."""
    found: list[float] = []

    async def schedule(stage: FakeStage) -> None:
        members = [await stage.member() for _ in range(3)]
        stage.spawn(members[0].audit_as_shipped())
        await asyncio.sleep(0.01)
        for member in members[1:]:
            stage.spawn(member.audit_as_shipped())
            await asyncio.sleep(0.01)
        await asyncio.sleep(3)
        (members[0].redis if loses_redis else members[0].postgres).cut = True
        found.append(await darkness(stage, 30))

    assert play(schedule, parts) == []
    return found[0]


@pytest.mark.parametrize("loses_redis", [True, False])
def test_one_instance_without_a_server(loses_redis: bool) -> None:  # noqa: FBT001 - a parameter of the scenario
    """The others keep the cache trusted."""
    assert longest_darkness(REAL, loses_redis=loses_redis) < DARK_S


def test_one_instance_that_takes_every_claim() -> None:
    """The goal can be missed: claims that are kept, in step, take the cache from everybody."""
    assert longest_darkness(TAKES_EVERYTHING) > 10


def test_every_instance_audits() -> None:
    """Nobody is kept from the claim for ever: of three instances each completes audits within ten seconds."""
    counts: list[int] = []

    async def schedule(stage: FakeStage) -> None:
        members = [await stage.member() for _ in range(3)]
        for member in members:
            stage.spawn(member.audit_as_shipped())
        await asyncio.sleep(10)
        counts.extend(member.stats.audits for member in members)

    assert play(schedule, REAL) == []
    assert min(counts) >= 2

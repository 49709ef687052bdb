"""Buckets move while instances of both pairs serve, and the command that moves them is killed."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import SessionPostgres
from tests.harness.servers import create_database, drop_database, new_name
from tests.outages.moving_buckets import MOVING, open_world, some_ranges, under_load
from tests.outages.scenarios.report import Report

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.alone, pytest.mark.guarantee("G1", "G2")]
_ROUNDS = 12


@pytest.fixture
async def urls(postgres: SessionPostgres, migrated_template: str) -> AsyncIterator[Mapping[str, str]]:
    """Two databases."""
    names = {side: new_name() for side in "ab"}
    yield {side: await create_database(postgres.url, name, template=migrated_template) for side, name in names.items()}
    for name in names.values():
        await drop_database(postgres.url, name)


async def test_buckets_move_while_both_pairs_serve(urls: Mapping[str, str], redis_url: str, tmp_path: Path) -> None:
    """No write is lost or done twice, no read is in the past or 404, and only requests about these buckets are refused."""
    report = Report()
    async with open_world(tmp_path, urls, redis_url, instances=1) as world:
        async with under_load(world, readers=3):
            assert not await world.move("500-502", "ab", kill_at="have left")
            while not await world.move("500-502", "ab"):
                await asyncio.sleep(0.02)
        await world.judge(report)
    log.info("%s", report.table())
    assert not report.broken, report.table()


@pytest.mark.slow
@pytest.mark.long
async def test_many_moves_to_and_fro(urls: Mapping[str, str], redis_url: str, tmp_path: Path) -> None:
    """The same for several sets of buckets in both directions; the command is killed at any moment, and given again."""
    report, chance = Report(), random.Random(7)
    kills = 0
    async with open_world(tmp_path, urls, redis_url, instances=2) as world:
        async with under_load(world, readers=4):
            for _ in range(_ROUNDS):
                way = chance.choice(("ab", "ba"))
                here = [bucket for bucket in MOVING if world.map[bucket] == way[0]]
                if not here:
                    continue
                ranges = some_ranges(chance, here)
                while not await world.move(ranges, way, kill_after_s=chance.choice((None, chance.uniform(0, 6)))):
                    kills += 1
                await asyncio.sleep(chance.uniform(0, 1))
        await world.judge(report)
    report.at_least("commands that were killed", kills, 5)
    log.info("%s", report.table())
    assert not report.broken, report.table()

"""The shipped rules and the dashboard's queries on a real Prometheus, while a real service suffers outages."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from app.private_servers import PostgresServer, RedisServer
from tests.cli.larder_process import Larder
from tests.monitoring.dashboard import queries
from tests.monitoring.prometheus import SPEED, Prometheus, faster, run_prometheus
from tests.monitoring.world import ALL_BUT_DEFECTS, OUTAGES, SHORT, Outage, World, directory_for, open_world

_LIMIT_S = 120.0
_HEAD = f"\nAll durations divided by {SPEED}:\n| outage | alerts | fired after (s) | cleared after (s) |\n|---|---|---|---|"
_BY_EXAMPLE_ONLY = {"LarderDefect", "LarderAcceptedWritesWait", "LarderAcceptedWritesFailed"}
"""The alerts that no outage of this service can cause; tests/monitoring/rules_test.yml has them."""


class Watch:
    """The alerts that were seen to fire since the last look."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self.seen: set[str] = set()

    async def until(self, wanted: frozenset[str]) -> float:
        """Wait until these alerts fire, all at once; or, if there are none, until no alert does. Return the seconds."""
        began = time.monotonic()
        while True:
            firing = await self._prometheus.firing()
            self.seen |= firing
            if firing >= wanted and (wanted or not firing):
                return time.monotonic() - began
            assert time.monotonic() < began + _LIMIT_S, f"{sorted(wanted)} wanted, {sorted(firing)} fire"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _watched(larder: Larder, postgres: PostgresServer, redis: RedisServer) -> AsyncIterator[tuple[World, Prometheus]]:
    async with (
        open_world(larder, postgres, redis) as world,
        run_prometheus(directory_for(larder), f"127.0.0.1:{world.port}", world.keys["prometheus"][0]) as prometheus,
    ):
        async with asyncio.timeout(_LIMIT_S):
            while await _silent(prometheus):
                await asyncio.sleep(0.2)
        yield world, prometheus


async def _silent(prometheus: Prometheus) -> list[str]:
    """Return the queries of the dashboard that return no data."""
    return [name for name, expression in queries().items() if not await prometheus.query(faster(expression))]


async def _suffer(outage: Outage, world: World, prometheus: Prometheus) -> str:
    """Let an outage happen and end; return the row of the table."""
    watch = Watch(prometheus)
    async with outage.run(world):
        fired_s = await watch.until(outage.must)
        silent = await _silent(prometheus)
    cleared_s = await watch.until(frozenset())
    assert watch.seen <= outage.must | outage.may, f"{outage.name}: {sorted(watch.seen)} fired"
    silent = [name for name in silent if not name.startswith(tuple(outage.silent))]
    assert silent == [], f"{outage.name}: these queries returned nothing: {silent}"
    return f"| {outage.name} | {', '.join(sorted(outage.must))} | {fired_s:.1f} | {cleared_s:.1f} |"


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("outages", [SHORT, pytest.param(OUTAGES, marks=pytest.mark.long)], ids=["short", "all"])
async def test_alerts_fire_in_their_outages_and_in_no_others(
    larder: Larder, private_postgres: PostgresServer, private_redis: RedisServer, outages: Sequence[Outage]
) -> None:
    """Each outage sets off its own alerts and no others, and they clear; every query of the dashboard returns data.

    Every duration of the shipped files is divided by 15. The table has the seconds as they passed here.
    """
    async with _watched(larder, private_postgres, private_redis) as (world, prometheus):
        assert await prometheus.firing() == set()
        table = [_HEAD, *[await _suffer(outage, world, prometheus) for outage in outages]]
        rules = await prometheus.rules()
    sys.stdout.write("\n".join(table))
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    alerts = {rule["name"] for rule in rules if rule["type"] == "alerting"}
    assert alerts == ALL_BUT_DEFECTS | _BY_EXAMPLE_ONLY

"""What makes versions go back, on real servers and under load: the cache starts clean, and nobody reads the past.

Products of the new epoch are named `e1 …` before any service can see them; from then on an answer that says `e0` is the
past, however high its version.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest

from app.postgres.migrations import upgrade
from tests.harness.cluster import PROBE, Cluster, postgres_target
from tests.harness.history import HAND_BOUNDS, SeenWrite
from tests.harness.servers import create_database, drop_database
from tests.harness.standby import copy_server, run_program
from tests.harness.workload import Load, count
from tests.outages.conftest import Stages
from tests.outages.stage import Stage

_LOAD = Load(readers=12, reader_pause_s=0.02, writers=4, writer_pause_s=0.05, counts_only=True)
_CLEAN_STARTS = "larder_cache_clean_starts_total"
_RENAME = "UPDATE products SET name = 'e1' || substr(name, 3)"
_BEFORE_S, _AFTER_S = 2.0, 5.0
"""Under load before the change, and after it: long enough that what outlives a fence shows."""

Change = Callable[[Cluster, Path], Awaitable[None]]


async def _truncate(cluster: Cluster, _directory: Path) -> None:
    async with await cluster.session() as session:
        await session.execute("CREATE TABLE kept AS SELECT id FROM products")
        await session.execute("TRUNCATE products")
        await session.execute("INSERT INTO products (id, name, price_cents) SELECT id, 'e1 ' || id, 1 FROM kept")


async def _recreate_database(cluster: Cluster, _directory: Path) -> None:
    server = cluster.postgres.url_of("postgres")
    await drop_database(server, cluster.database)
    await create_database(server, cluster.database)
    await upgrade(cluster.url)
    async with await cluster.session() as session:
        keys = [PROBE, *_keys()]
        await session.execute(
            "INSERT INTO products (id, name, price_cents) SELECT id, 'e1 ' || id, 1 FROM unnest(%s::text[]) AS id", [keys]
        )


async def _restore(cluster: Cluster, directory: Path, *, filler: int = 0) -> None:
    """Put back, by `pg_restore --clean`, a dump of some time ago."""
    server = cluster.postgres.url_of("postgres")
    other = await create_database(server, "other")
    await run_program("pg_dump", "-Fc", "-f", directory / "live.dump", cluster.url)
    await run_program("pg_restore", "-d", other, directory / "live.dump")
    async with await psycopg.AsyncConnection.connect(other, autocommit=True) as session:
        await session.execute(_RENAME)
        await session.execute(
            "INSERT INTO products (id, name, price_cents) SELECT 'filler-' || n, 'e1 filler', 1 FROM generate_series(1, %s) n",
            [filler],
        )
    await run_program("pg_dump", "-Fc", "-f", directory / "old.dump", other)
    await asyncio.sleep(0.5)  # versions go on rising: the dump becomes the past
    await run_program("pg_restore", "--clean", "--if-exists", "-d", cluster.url, directory / "old.dump")


async def _promote_standby(cluster: Cluster, directory: Path) -> None:
    """Lose the primary, and promote a standby that has not everything: versions go back, on another timeline."""
    standby = await copy_server(cluster.postgres, directory / "standby", cluster.database, streaming=False)
    await asyncio.sleep(0.5)  # versions go on rising: the standby falls behind
    await standby.start()
    lost, cluster.postgres = cluster.postgres, standby
    await lost.kill()
    async with await cluster.session() as session:
        await session.execute("SELECT pg_promote()")
        await session.execute(_RENAME)
    for instance in cluster.instances:
        instance.postgres.target = postgres_target(standby)
        instance.postgres.cut()


@pytest.mark.guarantee("G1", "G4", "R6")
@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_truncate, id="truncated"),
        pytest.param(_recreate_database, id="database recreated", marks=pytest.mark.alone),
        pytest.param(_restore, id="pg_restore --clean", marks=pytest.mark.alone),
        pytest.param(
            partial(_restore, filler=300_000), id="slow pg_restore --clean", marks=[pytest.mark.alone, pytest.mark.long]
        ),
        pytest.param(_promote_standby, id="standby promoted", marks=pytest.mark.alone),
    ],
)
async def test_versions_go_back(stage: Stages, outage_directory: Path, change: Change) -> None:
    """R6: the cache starts clean, hits come back, and no read shows the past (G1), nor later than G4 allows."""
    async with stage(_LOAD) as on:
        first = on.cluster.postgres
        try:
            await _through(on, outage_directory, change)
        finally:
            if on.cluster.postgres is not first:
                await on.cluster.postgres.stop()


@pytest.mark.guarantee("G1")
@pytest.mark.slow
@pytest.mark.alone
async def test_written_while_a_restore_has_not_come_to_the_triggers(stage: Stages, outage_directory: Path) -> None:
    """G1: rows are back, keys and indexes too, and triggers come last; what is acknowledged meanwhile must be seen, too.

    Without them a change leaves no trace that an audit could find: a publish that is lost then is never repaired.
    """
    async with stage(_LOAD) as on:
        writer, reader = on.cluster.instances[:2]
        key = on.workload.hot[0]
        dump = outage_directory / "some.dump"
        clean_starts = await _clean_starts(on.cluster)
        with on.log.on("restore", "postgres"):
            await run_program("pg_dump", "-Fc", "-f", dump, on.cluster.url)
            await run_program("pg_restore", "--clean", "--if-exists", "--section=pre-data", "-d", on.cluster.url, dump)
            await _restore_parts(on.cluster.url, dump, "TABLE DATA", "CONSTRAINT", "INDEX")
            with suppress(TimeoutError):  # the cache may just as well not be trusted now
                async with asyncio.timeout(4):
                    while await _clean_starts(on.cluster) == clean_starts:
                        await asyncio.sleep(0.02)
                    await on.cluster.until_trusted()
            await on.workload.read(reader, key)
            writer.redis.refuse()
            await on.workload.write(writer, count(key, on.workload.next_mark()))
            await on.workload.read(reader, key)
            await _restore_parts(on.cluster.url, dump, "TRIGGER")
            await writer.redis.heal()
            await on.cluster.until_trusted()
            for instance in on.cluster.instances:
                await on.workload.read(instance, key)
        assert on.judge() == []


async def _through(on: Stage, directory: Path, change: Change) -> None:
    clean_starts = await _clean_starts(on.cluster)
    on.workload.start()
    await asyncio.sleep(_BEFORE_S)
    called = time.monotonic()
    with on.log.on("epoch", "postgres"):
        await change(on.cluster, directory)
        changed = time.monotonic()
        await on.cluster.until_trusted()
    on.history.writes += _states_put_back(_keys(), called, changed + HAND_BOUNDS.faulty_s)
    await asyncio.sleep(_AFTER_S)
    await on.workload.stop()
    hits = sum(read.status == "hit" and read.epoch_order == 1 for read in on.history.reads)
    assert on.judge() == []
    assert await _clean_starts(on.cluster) > clean_starts
    assert any("clean" in instance.log.read_text() for instance in on.cluster.instances)
    assert hits > 100


def _states_put_back(keys: Sequence[str], called: float, due: float) -> list[SeenWrite]:
    """The new epoch's first states, version 1 at least. Before them each product may have been absent for a moment."""
    gaps = [SeenWrite(key, called, due, 0, acknowledged=True, deleted=True, epoch_order=1, kind="gap") for key in keys]
    return gaps + [SeenWrite(key, called, due, 1, acknowledged=True, epoch_order=1, kind="new epoch") for key in keys]


def _keys() -> list[str]:
    return [f"hot-{number}" for number in range(_LOAD.hot)] + [f"cold-{number}" for number in range(_LOAD.cold)]


async def _clean_starts(cluster: Cluster) -> float:
    return sum([(await instance.metrics()).get(_CLEAN_STARTS, 0.0) for instance in cluster.instances])


async def _restore_parts(url: str, dump: Path, *parts: str) -> None:
    """Do those steps of `pg_restore` whose entries in the list of contents have one of these words."""
    contents = dump.with_suffix(".list")
    await run_program("pg_restore", "-l", "-f", contents, dump)
    chosen = [line for line in contents.read_text().splitlines() if any(f" {part} " in line for part in parts)]
    contents.write_text("\n".join(chosen) + "\n")
    await run_program("pg_restore", "-L", contents, "-d", url, dump)

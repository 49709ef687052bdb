"""An upgrade from each earlier revision with data in it, and the way back to the release before."""

import asyncio
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from app.postgres.migrations import upgrade
from tests.harness.cluster import PROBE, Cluster, an_instance, start_cluster
from tests.harness.faultlog import FaultLog
from tests.harness.history import HAND_BOUNDS, History
from tests.harness.servers import create_database, execute
from tests.harness.workload import Workload
from tests.outages.drills.clients import LOAD, fill, keep_state, see, see_restored
from tests.outages.drills.page import commands, messages, operator
from tests.outages.next_release import make_next_release
from tests.outages.release import Release
from tests.outages.scenarios.report import Report
from tests.outages.stage import Stage, open_stage

_OLD = "old"
_LAST_OF_0_1_0 = "0002"
_REFUSES_S = 3.0
_POLL_S = 0.02
_DATA = """
INSERT INTO products (id, name, price_cents, stock)
    SELECT id, 'e0 ' || id, 1, 7 FROM unnest(%s::text[]) AS id
    UNION ALL SELECT 'filler-' || n, 'e0 filler ' || n, n, 7 FROM generate_series(1, %s) n;
"""
_DELETED = "DELETE FROM products WHERE id IN ('filler-1', 'filler-2')"
_RECORD = """
INSERT INTO idempotency_records (caller, key, request_hash, status, body, product_ids)
    VALUES ('', 'kept', '\\x00', 200, '{}', '{filler-3}')
"""
_KEPT = "SELECT id, name, price_cents, stock, version, created_at, updated_at, deleted_at FROM products ORDER BY id"
_LEDGER = """
SELECT count(*) FROM products p
    LEFT JOIN (SELECT product_id, sum(delta) AS stock FROM stock_movements GROUP BY product_id) m ON m.product_id = p.id
    WHERE p.stock <> coalesce(m.stock, 0)
"""


async def run_from(revision: str, directory: Path, products: int, report: Report) -> None:
    """Upgrade a database of ``revision``, and serve before and after the finish."""
    expand, finish = commands("Upgrade")
    async with start_cluster(directory, instances=0) as cluster, AsyncExitStack() as opened:
        await _make_old(cluster, revision, products)
        before = await execute(cluster.url, _KEPT)
        at = operator(cluster)
        report.tell("seconds of larder migrate", await at.run(expand))
        changed = set(before).symmetric_difference(await execute(cluster.url, _KEPT))
        report.at_most("rows that the migration changed", len(changed), 0)
        cluster.instances.append(await opened.enter_async_context(an_instance(cluster, 0)))
        await cluster.instances[0].restart(cluster.database)
        await cluster.until_trusted()
        log = FaultLog()
        history = History(log, HAND_BOUNDS)
        on = Stage(cluster, log, history, Workload(cluster, history, log, LOAD, Random(3)))
        on.workload.start()
        began = time.monotonic()
        await asyncio.sleep(1)
        report.tell("seconds of larder migrate --finish", await at.run(finish))
        called = time.monotonic()
        await cluster.until_trusted()
        report.tell("seconds from the finish to hits", time.monotonic() - called)
        await asyncio.sleep(1)
        await on.workload.stop()
        see(on, began, time.monotonic(), report, interrupted=False)
        [[wrong]] = await execute(cluster.url, _LEDGER)
        report.at_most("products whose ledger is not their stock", wrong, 0)


async def run_back(directory: Path, products: int, report: Report) -> None:
    """Go back to the old release before the finish, and after it with the dump of before the upgrade."""
    old, new = Release(), Release(make_next_release(directory))
    [dump] = commands("Dump")
    load, close, swap, _ = commands("Restore a dump")
    unknown_revision, too_old = messages("Back to the release before")
    async with open_stage(directory, LOAD, instances=2, program=old.program) as on:
        await fill(on, products)
        at = operator(on.cluster)

        async def keep() -> None:
            await at.run(dump)

        await keep_state(on, keep)
        on.workload.start()
        began = time.monotonic()
        await asyncio.sleep(1)
        await _expand_and_return(on, new, report)
        await at.run("larder migrate", refused=unknown_revision)
        with on.log.on("finish", "postgres"):
            await new.command(on.cluster, "migrate", "--finish")
            report.tell("seconds from the finish to a refusal", await _until_refused(on, too_old))
            await at.run(load)
            await at.run(close)
            reachable = time.monotonic()
            await at.run(swap)
            await on.cluster.until_trusted()
        await see_restored(on, began, reachable, report)


async def _expand_and_return(on: Stage, new: Release, report: Report) -> None:
    """Expand, and start an old instance anew. The scenario ``rolling-deploy`` has both releases side by side."""
    await new.command(on.cluster, "migrate")
    first = on.cluster.instances[0]
    with on.log.on("restart", "service", first.number):
        began = time.monotonic()
        await first.terminate()
        await first.restart(on.cluster.database)
        report.tell("seconds of restarting an old instance on the migrated schema", time.monotonic() - began)
    await on.cluster.until_trusted()


async def _until_refused(on: Stage, message: re.Pattern[str]) -> float:
    """Wait until both old instances refuse with the message; return the seconds it took."""
    began = time.monotonic()
    for instance in on.cluster.instances:
        async with asyncio.timeout(_REFUSES_S):
            while not message.search((await instance.endpoint.request("GET", "/readyz")).body.decode()):
                await asyncio.sleep(_POLL_S)
    return time.monotonic() - began


async def _make_old(cluster: Cluster, revision: str, products: int) -> None:
    """Make a database of ``revision`` that a release of 0.1.0 filled, and let the cluster use it."""
    await create_database(cluster.postgres.url_of("postgres"), _OLD)
    cluster.database = _OLD
    await upgrade(cluster.url, min(revision, _LAST_OF_0_1_0))
    keys = [PROBE, *(f"hot-{n}" for n in range(LOAD.hot)), *(f"cold-{n}" for n in range(LOAD.cold))]
    async with await cluster.session() as session:
        await session.execute(_DATA, [keys, products])
        await session.execute(_DELETED)
        if revision > "0001":
            await session.execute(_RECORD)
    await upgrade(cluster.url, revision)

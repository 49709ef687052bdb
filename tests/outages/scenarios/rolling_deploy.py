"""A rolling deploy of a release that adds members to a product: expand, both releases side by side, finish.

The next release is made from this checkout (``next_release``), and so is the last one, which has no reservations. One instance
of the old release is forgotten: it must refuse after the finish. No client reads old data in any phase, and both releases
return the old bytes until the finish. If a client repeats a sale with its key, at any instance, it is done once.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from tests.harness.cluster import PROBE, Cluster, Instance, Prepare, an_instance
from tests.harness.workload import Load
from tests.outages.last_release import make_last_release
from tests.outages.next_release import MEMBER, make_next_release
from tests.outages.release import Release
from tests.outages.scenarios.report import Report, hits
from tests.outages.shop import Shop
from tests.outages.stage import Stage, open_stage
from tests.outages.till import Till

_LOAD = Load(readers=10, reader_pause_s=0.02, writers=4, writer_pause_s=0.06, counts_only=True)
_HITS_AGAIN_S = 3.5
_REFUSES_S = 3.0
_POLL_S = 0.02


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Deploy the next release over this one."""
    old, new = Release(), Release(make_next_release(directory))
    await deploy(directory, seconds, report, old, new)


async def run_reservations(directory: Path, seconds: float, report: Report) -> None:
    """Deploy this release over the last one, which sells whatever lies in stock, and hold units from the finish on."""
    await deploy_reservations(directory, seconds, report, Release(make_last_release(directory)), prepare=unfinished)


async def deploy_reservations(
    directory: Path,
    seconds: float,
    report: Report,
    old: Release,
    *,
    revision: str = "head",
    prepare: Prepare | None = None,
) -> None:
    """Deploy this release over one without reservations, whose migrations end at ``revision``."""
    await deploy(
        directory, seconds, report, old, Release(), revision=revision, prepare=prepare, member=b'"reserved":', holds=True
    )


async def unfinished(cluster: Cluster) -> None:
    """Leave the database as a migration of one in use does: with the new columns, and not finished."""
    async with await cluster.session() as session:
        await session.execute("UPDATE cache_generations SET payload_schema = 2 WHERE relation = 'products'")


async def deploy(
    directory: Path,
    seconds: float,
    report: Report,
    old: Release,
    new: Release,
    *,
    revision: str = "head",
    prepare: Prepare | None = None,
    says_why: bool = True,
    member: bytes = MEMBER,
    holds: bool = False,
) -> None:
    """Deploy one release over another, whose migrations end at ``revision``.

    Args:
        directory: where the cluster runs.
        seconds: how long under load.
        report: what to add the figures to.
        old: the release before.
        new: the release after.
        revision: the last migration of the release before.
        prepare: runs after these migrations.
        says_why: whether the old release says why it refuses. Only 0.1.0 does not, and it keeps a ``/readyz`` of 200.
        member: a member that products have after the finish.
        holds: whether units are held as soon as that is possible.
    """
    stage = open_stage(directory, _LOAD, instances=2, program=old.program, revision=revision, prepare=prepare)
    async with stage as on:
        replaced, forgotten = on.cluster.instances
        serving = on.cluster.instances
        async with (
            an_instance(on.cluster, 2, program=new.program) as third,
            an_instance(on.cluster, 3, program=new.program) as fourth,
        ):
            till = Till(serving)
            await till.open()
            on.workload.start()
            selling = asyncio.create_task(till.sell())
            await asyncio.sleep(seconds / 3)
            await new.command(on.cluster, "migrate")
            for instance in (third, fourth):
                await instance.restart(on.cluster.database)
            serving += [third, fourth]
            side_by_side = time.monotonic()
            await asyncio.sleep(seconds / 3)
            if says_why:
                await _judge_bytes(on.cluster.instances, report, "before the finish", member, expected=0)
            serving.remove(replaced)
            await replaced.terminate()
            serving.remove(forgotten)
            shop = Shop([third, fourth], forgotten, closed=not holds)
            await shop.open()
            buying = asyncio.create_task(shop.work())
            finished = await _finish(new, on, [third, fourth], report)
            await _judge_forgotten(on, forgotten, finished, report, says_why=says_why)
            await asyncio.sleep(seconds / 3)
            if says_why:
                await _judge_bytes([third, fourth], report, "after the finish", member, expected=2)
            till.closed = shop.closed = True
            await selling
            await buying
            await on.workload.stop()
            serving[:] = [third, fourth]
            _judge_reads(on, side_by_side, finished, report)
            _judge_failures(on, forgotten, report)
            await till.judge(report)
            if holds:
                await shop.judge(report, on.cluster)
                await new.command(on.cluster, "verify")


async def _finish(new: Release, on: Stage, instances: Sequence[Instance], report: Report) -> float:
    """Finish the migration, and wait until the new instances hit again; return when the command was through."""
    await new.command(on.cluster, "migrate", "--finish")
    finished = time.monotonic()
    await on.cluster.until_trusted(2 * _HITS_AGAIN_S, instances)
    report.at_most("seconds from the finish to hits at the new instances", time.monotonic() - finished, _HITS_AGAIN_S)
    return finished


async def _judge_forgotten(on: Stage, forgotten: Instance, finished: float, report: Report, *, says_why: bool) -> None:
    """Read from the forgotten instance until it refuses. Its answers go into the history and are checked like every read."""
    refused = 0.0
    while not refused and time.monotonic() < finished + 2 * _REFUSES_S:
        if not await on.workload.read(forgotten, on.workload.hot[0]):
            refused = time.monotonic()
        await asyncio.sleep(_POLL_S)
    report.at_most("seconds from the finish to a refusal by the forgotten instance", (refused or 99.0) - finished, _REFUSES_S)
    for method, path, body in (
        ("GET", f"/products/{on.workload.cold[0]}", b""),
        ("PUT", f"/products/{on.workload.hot[0]}/stock", b'{"stock": 7}'),
        ("GET", "/readyz", b""),
    ):
        answer = await forgotten.endpoint.request(method, path, body=body)
        reason = b"this release is too old" in answer.body
        name = f"{method} {path.rpartition('/')[2]} of the forgotten instance"
        found = f"{answer.status}{', with the reason' if reason else ''}"
        if says_why:
            report.demand(name, found, "503, with the reason", kept=answer.status == 503 and reason)
        elif path != "/readyz":
            report.demand(name, found, "503", kept=answer.status == 503)
        else:
            report.tell(name, found)


async def _judge_bytes(instances: Sequence[Instance], report: Report, when: str, member: bytes, *, expected: int) -> None:
    bodies = [(await instance.endpoint.request("GET", f"/products/{PROBE}")).body for instance in instances]
    found = sum(member in body for body in bodies)
    report.demand(f"instances that show the new member {when}", found, str(expected), kept=found == expected)


def _judge_failures(on: Stage, forgotten: Instance, report: Report) -> None:
    failures = [failure for failure in on.history.failures if failure.instance != forgotten.number]
    report.none("requests not served, but for the forgotten instance's", failures)


def _judge_reads(on: Stage, side_by_side: float, finished: float, report: Report) -> None:
    for name, since, until in (
        ("with one release", 0.0, side_by_side),
        ("side by side", side_by_side, finished),
        ("after the finish", finished, float("inf")),
    ):
        reads = [read for read in on.history.reads if since <= read.called < until]
        report.tell(f"reads {name}, and hits, percent", f"{len(reads)}, {hits(reads):.1f}")
    report.no_stale_reads("in all phases", on.history.reads, on.history.writes)

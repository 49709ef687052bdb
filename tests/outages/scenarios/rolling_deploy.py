"""A rolling deploy of the next release, which adds a member to a product: expand, both releases side by side, finish.

The next release is made out of this checkout (``next_release``). One instance of the old one is forgotten: after the finish it
must refuse. Nobody reads the past in any phase, both releases answer the old bytes until the finish, and a client that sends
a sale again with its key, wherever it is answered, has it done once.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.outages.client import NoAnswerError
from tests.outages.cluster import NAMESPACE, PROBE, Instance, Program, an_instance, larder
from tests.outages.next_release import MEMBER, make_next_release
from tests.outages.scenarios.report import Report, share
from tests.outages.stage import Stage, open_stage
from tests.outages.workload import Load

_LOAD = Load(readers=10, reader_pause_s=0.02, writers=4, writer_pause_s=0.06, counts_only=True)
_SOLD = "sold"
_OPENING = 1_000_000
_HITS_AGAIN_S = 3.5
_REFUSES_S = 3.0
_POLL_S = 0.02


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Do it."""
    root = make_next_release(directory)
    program = _program(root)
    async with open_stage(directory, _LOAD, instances=2) as on:
        replaced, forgotten = on.cluster.instances
        serving = on.cluster.instances
        async with an_instance(on.cluster, 2, program=program) as third, an_instance(on.cluster, 3, program=program) as fourth:
            till = _Till(serving)
            await till.open()
            on.workload.start()
            selling = asyncio.create_task(till.sell())
            await asyncio.sleep(seconds / 3)
            await _command(root, on, "migrate")
            for instance in (third, fourth):
                await instance.restart(on.cluster.database)
            serving += [third, fourth]
            side_by_side = time.monotonic()
            await asyncio.sleep(seconds / 3)
            await _judge_bytes(on.cluster.instances, report, "before the finish", has_member=False)
            serving.remove(replaced)
            await replaced.terminate()
            serving.remove(forgotten)
            finished = await _finish(root, on, [third, fourth], report)
            await _judge_forgotten(on, forgotten, finished, report)
            await asyncio.sleep(seconds / 3)
            await _judge_bytes([third, fourth], report, "after the finish", has_member=True)
            till.closed = True
            await selling
            await on.workload.stop()
            serving[:] = [third, fourth]
            _judge_reads(on, side_by_side, finished, report)
            failures = [failure for failure in on.history.failures if failure.instance != forgotten.number]
            report.none("requests not served, but for the forgotten instance's", failures)
            await till.judge(report)


def _program(root: Path) -> Program:
    """Run the release whose checkout this is."""

    def program(instance: Instance, database: str) -> tuple[Sequence[str], Mapping[str, str]]:
        _, settings = larder(instance, database)
        return _larder_of(root, "serve"), settings

    return program


def _larder_of(root: Path, *arguments: str) -> Sequence[str]:
    line = f"import sys; sys.path.insert(0, {str(root)!r}); from app.cli import main; sys.exit(main({list(arguments)!r}))"
    return sys.executable, "-c", line


async def _command(root: Path, on: Stage, *arguments: str) -> None:
    """Run a command of a release on the cluster's servers, past the proxies."""
    settings = {
        "LARDER_DATABASE_URL": on.cluster.url,
        "LARDER_REDIS_URL": on.cluster.redis.url,
        "LARDER_CACHE_NAMESPACE": NAMESPACE,
    }
    process = await asyncio.create_subprocess_exec(
        *_larder_of(root, *arguments), env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"larder {' '.join(arguments)}: {said.decode()}")


async def _finish(root: Path, on: Stage, instances: Sequence[Instance], report: Report) -> float:
    """Finish the migration, and wait until the new instances hit again; return when the command was through."""
    await _command(root, on, "migrate", "--finish")
    finished = time.monotonic()
    await on.cluster.until_trusted(2 * _HITS_AGAIN_S, instances)
    report.at_most("seconds from the finish to hits at the new instances", time.monotonic() - finished, _HITS_AGAIN_S)
    return finished


async def _judge_forgotten(on: Stage, forgotten: Instance, finished: float, report: Report) -> None:
    """What it answers goes into the history, to be judged like every read, until it refuses."""
    refused = 0.0
    while not refused and time.monotonic() < finished + 2 * _REFUSES_S:
        if not await on.workload.read(forgotten, on.workload.hot[0]):
            refused = time.monotonic()
        await asyncio.sleep(_POLL_S)
    report.at_most("seconds from the finish to a refusal by the forgotten instance", (refused or 99.0) - finished, _REFUSES_S)
    for method, path, body in (
        ("GET", f"/products/{on.workload.cold[0]}", b""),
        ("GET", "/readyz", b""),
        ("PUT", f"/products/{on.workload.hot[0]}/stock", b'{"stock": 7}'),
    ):
        answer = await forgotten.endpoint.request(method, path, body=body)
        reason = b"this release is too old" in answer.body
        report.demand(
            f"{method} {path.rpartition('/')[2]} of the forgotten instance",
            f"{answer.status}{', with the reason' if reason else ''}",
            "503, with the reason",
            kept=answer.status == 503 and reason,
        )


async def _judge_bytes(instances: Sequence[Instance], report: Report, when: str, *, has_member: bool) -> None:
    bodies = [(await instance.endpoint.request("GET", f"/products/{PROBE}")).body for instance in instances]
    found = sum(MEMBER in body for body in bodies)
    report.demand(
        f"instances that show the new member {when}",
        found,
        str(len(bodies) if has_member else 0),
        kept=found == (len(bodies) if has_member else 0),
    )


def _judge_reads(on: Stage, side_by_side: float, finished: float, report: Report) -> None:
    for name, since, until in (
        ("with one release", 0.0, side_by_side),
        ("side by side", side_by_side, finished),
        ("after the finish", finished, float("inf")),
    ):
        reads = [read for read in on.history.reads if since <= read.called < until]
        hits = share(sum(read.status == "hit" for read in reads), len(reads))
        report.tell(f"reads {name}, and hits, percent", f"{len(reads)}, {hits:.1f}")
    report.no_stale_reads("in all phases", on.history.reads, on.history.writes)


class _Till:
    """A client that sells one unit after another, and sends a sale that was not answered with success again elsewhere."""

    def __init__(self, serving: Sequence[Instance]) -> None:
        self._serving = serving
        self._sales = 0
        self._again = 0
        self.closed = False

    async def open(self) -> None:
        """Create the product."""
        body = b'{"name": "e0 sold", "price_cents": 1, "stock": %d}' % _OPENING
        answer = await self._serving[0].endpoint.request("PUT", f"/products/{_SOLD}", body=body)
        if answer.status != 201:
            raise RuntimeError(f"the product was not created: {answer.body!r}")

    async def sell(self) -> None:
        """Sell until it is closed."""
        while not self.closed:
            await self._sell_one(f"sale-{self._sales}")
            self._sales += 1
            await asyncio.sleep(_POLL_S)

    async def _sell_one(self, key: str) -> None:
        attempt = self._sales
        while True:
            instance = self._serving[attempt % len(self._serving)]
            attempt += 1
            try:
                answer = await instance.endpoint.request(
                    "POST",
                    f"/products/{_SOLD}/stock/adjustments",
                    headers=f"Idempotency-Key: {key}\r\n",
                    body=b'{"delta": -1, "reason": "sale"}',
                )
            except NoAnswerError:
                self._again += 1
                continue
            if answer.status == 200:
                return
            if answer.status != 503:
                raise RuntimeError(f"a sale was answered {answer.status} by instance {instance.number}: {instance.tail()}")
            self._again += 1

    async def judge(self, report: Report) -> None:
        """Each sale was done once."""
        answer = await self._serving[0].endpoint.request("GET", f"/products/{_SOLD}")
        sold = _OPENING - int(answer.body.partition(b'"stock":')[2].partition(b",")[0])
        report.tell("sales sent again", self._again)
        report.demand("units sold", sold, str(self._sales), kept=sold == self._sales)

"""What the clients of a drill saw, and the state that it brings back.

The kept state's products are named ``e1 …`` while no client reads. All that clients see before the restore is named ``e0 …``,
so an answer that says ``e0`` afterwards shows the later time that the restore took back, however high its version.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise

from tests.harness.history import SeenWrite
from tests.harness.workload import Load
from tests.outages.scenarios.report import Report
from tests.outages.stage import Stage

LOAD = Load(readers=6, reader_pause_s=0.02, writers=3, writer_pause_s=0.05, counts_only=True)
_FILL = (
    "INSERT INTO products (id, name, price_cents, stock)"
    " SELECT 'filler-' || n, 'e0 filler ' || n, n, 7 FROM generate_series(1, %s) n"
)
_RENAME = "UPDATE products SET name = %s || substr(name, 3) WHERE id NOT LIKE 'filler-%%'"
_AFTER_S = 2.0
_ENOUGH_HITS = 50


async def fill(on: Stage, products: int) -> None:
    """Add products that nobody asks for, so that backups have a size."""
    async with await on.cluster.session() as session:
        await session.execute(_FILL, [products])
    await on.cluster.until_trusted()


async def keep_state(on: Stage, keep: Callable[[], Awaitable[None]]) -> None:
    """Call ``keep`` while all products are named ``e1 …``. No client may read meanwhile."""
    async with await on.cluster.session() as session:
        await session.execute(_RENAME, ["e1"])
        await keep()
        await session.execute(_RENAME, ["e0"])


async def see_restored(on: Stage, began: float, since: float, report: Report) -> None:
    """Go on for a while after the kept state came back at ``since``, stop the clients, and judge all that they saw.

    From ``since`` on no read may show the later time: not one hit of it, however short. What is counted begins at ``began``.
    """
    keys = [*on.workload.hot, *on.workload.cold]
    on.history.writes += [
        SeenWrite(key, since, since, 1, acknowledged=True, epoch_order=1, kind="state put back") for key in keys
    ]
    await asyncio.sleep(_AFTER_S)
    await on.workload.stop()
    hits = sum(read.status == "hit" and read.epoch_order == 1 for read in on.history.reads)
    report.at_least("hits of restored products", hits, _ENOUGH_HITS)
    see(on, began, time.monotonic(), report)


def see(on: Stage, began: float, ended: float, report: Report, *, interrupted: bool = True, during: str = "") -> None:
    """Report what clients saw between two moments, and judge the whole history. Call it when the clients have stopped."""
    history = on.history
    seen = [read for read in history.reads if began <= read.returned <= ended]
    reads = {(read.called, read.returned) for read in seen if not read.flagged}
    flagged = {(read.called, read.returned) for read in seen if read.flagged}
    writes = {
        (w.called, w.returned) for w in history.writes if w.acknowledged and w.instance >= 0 and began <= w.returned <= ended
    }
    failures = [failure for failure in history.failures if began <= failure.returned <= ended]
    refused = [failure for failure in failures if failure.answer.startswith("503")]
    report.tell(f"requests answered with success{during}", len(reads) + len(writes))
    report.tell(f"copies flagged as unverified, for clients that accept them{during}", len(flagged))
    report.tell(f"requests answered 503{during}", len(refused))
    report.tell(f"requests without an answer{during}", len(failures) - len(refused))
    if not interrupted:
        report.none(f"requests not served{during}", failures)
    report.tell(f"seconds without an answered read{during}", _longest_gap((r[1] for r in reads), began, ended))
    report.tell(f"seconds without an acknowledged write{during}", _longest_gap((w[1] for w in writes), began, ended))
    judgement = history.judge()
    report.tell(f"reads checked{during}", judgement.verdict.checked)
    report.none(f"stale reads and other violations{during}", [*judgement.violations, *judgement.excerpt])


def _longest_gap(moments: Iterable[float], began: float, ended: float) -> float:
    marks = [began, *sorted(moments), ended]
    return max(later - earlier for earlier, later in pairwise(marks))

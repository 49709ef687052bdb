"""Split brain: a streaming standby is promoted while instance A still reaches the old primary, with one Redis for all.

Products get names of the next epoch (``e1 …``) on the new primary before any instance is connected to it. After the new
primary's first audit, every answer of B and C without a flag must come from it and be as new as what they acknowledged. A must
notice by itself that its primary was deposed, answer 503, and try again until it is connected to the new one. A is the instance
that audits just before the split. If all clocks were in step, it would go on auditing for the old history.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from app.private_servers import PostgresServer
from tests.harness.cluster import AUDIT_INTERVAL_S, CACHE_NAME, Instance, postgres_target
from tests.harness.history import History, SeenRead, SeenWrite
from tests.harness.standby import copy_server, until_level
from tests.harness.workload import Load, Workload
from tests.outages.scenarios.report import Report, hits
from tests.outages.stage import Stage, open_stage

Session = psycopg.AsyncConnection[tuple[object, ...]]

_LOAD = Load(readers=12, reader_pause_s=0.02, writers=3, writer_pause_s=0.06, counts_only=True)
_OLD_LOAD = Load(readers=3, reader_pause_s=0.02, writers=1, writer_pause_s=0.06, counts_only=True)
_BEFORE_S = 1.0
_READS_PER_S = 167
_FIRST_AUDIT_S = 10.0
_HITS_S = 3.5
"""Largest TTL, two intervals and one audit."""
_POLL_S = 0.01
_TRIED_S = 2.0
_RECOVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides after the split: the clients of A, which are checked separately, and those of B and C."""

    old: Workload
    new: Workload


async def run(directory: Path, seconds: float, report: Report) -> None:
    """Run the scenario."""
    async with open_stage(directory, _LOAD) as on:
        standby = await copy_server(on.cluster.postgres, directory / "standby", on.cluster.database, streaming=True)
        try:
            await standby.start()
            await _split(on, standby, seconds, report)
        finally:
            await standby.stop()


async def _split(on: Stage, standby: PostgresServer, seconds: float, report: Report) -> None:
    deposed = await on.cluster.auditor()
    others = [instance for instance in on.cluster.instances if instance is not deposed]
    sides = _Sides(on.clients(_OLD_LOAD, [deposed]), on.clients(_LOAD, others, seed=12))
    await _under_load(_BEFORE_S, sides)
    await until_level(on.cluster.postgres, standby)
    with on.log.on("split-brain", "postgres"):
        async with await psycopg.AsyncConnection.connect(standby.url, autocommit=True) as session:
            await session.execute("SELECT pg_promote()")
            await session.execute("UPDATE products SET name = 'e1' || substr(name, 3)")
            audits = await _completed(session)
            for instance in others:
                instance.postgres.target = postgres_target(standby)
                instance.postgres.cut()
            promoted = time.monotonic()
            sides.old.start()
            sides.new.start()
            first_audit = await _first_audit(session, audits)
        report.at_most("seconds from the promotion to its first audit", first_audit - promoted, _HITS_S)
        await asyncio.sleep(max(0.0, first_audit + 0.6 * seconds - time.monotonic()))
        tried = deposed.postgres.accepted
        await asyncio.sleep(_TRIED_S)
        report.at_least(f"connections that A tried meanwhile, in {_TRIED_S:g} s", deposed.postgres.accepted - tried, 1)
        deposed.postgres.target = postgres_target(standby)
        led = time.monotonic()
        recovered = await _until_served(deposed, led)
        await asyncio.sleep(max(1.0, first_audit + seconds - time.monotonic()))
        await sides.old.stop()
        await sides.new.stop()
    _judge_new(sides, promoted, first_audit, report, at_least=int(_READS_PER_S * seconds))
    _judge_old(sides, (promoted, first_audit, led, recovered), report)


async def _under_load(seconds: float, sides: _Sides) -> None:
    for side in (sides.old, sides.new):
        side.start()
    await asyncio.sleep(seconds)
    for side in (sides.old, sides.new):
        await side.stop()


async def _first_audit(session: Session, before: int) -> float:
    """Return when the new primary's audit row first showed a completed cycle of its own, or a slightly later moment."""
    end = time.monotonic() + _FIRST_AUDIT_S
    while await _completed(session) <= before and time.monotonic() < end:
        await asyncio.sleep(_POLL_S)
    return time.monotonic()


async def _completed(session: Session) -> int:
    row = await (await session.execute("SELECT max(completed) FROM cache_audits WHERE namespace = %s", [CACHE_NAME])).fetchone()
    return int(str(row[0])) if row and row[0] is not None else 0


async def _until_served(instance: Instance, since: float) -> float:
    while time.monotonic() < since + 2 * _RECOVERY_S:
        if await instance.hits("probe"):
            return time.monotonic()
        await asyncio.sleep(_POLL_S)
    return time.monotonic()


def _judge_new(sides: _Sides, promoted: float, first_audit: float, report: Report, *, at_least: int) -> None:
    history = sides.new.history
    # From the first audit on every state of the old primary is the past, also of products that nobody wrote since.
    bound = [
        SeenWrite(key, promoted, first_audit, 1, acknowledged=True, epoch_order=1, kind="promotion")
        for key in (*sides.new.hot, *sides.new.cold)
    ]
    since = [read for read in history.reads if read.called > first_audit]
    report.no_stale_reads("B and C, from the first audit on", since, [*history.writes, *bound])
    report.at_least("reads at B and C from then on", len(since), at_least)
    report.tell("hits among them, percent", hits(since))
    early = [read for read in history.reads if promoted < read.called <= first_audit]
    report.tell("reads at B and C between promotion and first audit", len(early))
    report.tell("of them stale", _stale(early, history.writes))
    first = min((r.returned for r in since if r.status == "hit" and r.epoch_order == 1), default=promoted + 99)
    report.at_most("seconds from the promotion to hits at B and C", first - promoted, _HITS_S)
    report.none("requests that B and C did not serve, from 1 s after the promotion on", _late(history, promoted + 1.0))


def _judge_old(sides: _Sides, times: tuple[float, float, float, float], report: Report) -> None:
    promoted, first_audit, led, recovered = times
    history = sides.old.history
    due = first_audit + 2 * AUDIT_INTERVAL_S
    before = [read for read in history.reads if promoted < read.called <= first_audit]
    report.tell("A before the first audit (nothing is promised): reads served", len(before))
    report.tell("of them stale", _stale(before, sides.new.history.writes))
    refused = [failure for failure in history.failures if failure.called > first_audit and failure.answer.startswith("503")]
    first = min((failure.returned for failure in refused), default=first_audit + 99)
    report.at_most("seconds from the first audit to A's first 503", first - first_audit, 2 * AUDIT_INTERVAL_S)
    served = [read for read in history.reads if due < read.called and read.returned < led and not read.flagged]
    report.none("reads that A served without a flag after 2 intervals", served)
    report.none("writes that A acknowledged after 2 intervals", _acknowledged(history, due, led))
    odd = [f for f in history.failures if f.called > promoted and not f.answer.startswith("503")]
    report.none("failures of A that are not 503", odd)
    report.at_most("seconds until A has hits, once it is led to the new primary", recovered - led, _RECOVERY_S)
    again = [read for read in history.reads if read.called > led]
    report.no_stale_reads("A, led to the new primary", again, sides.new.history.writes)
    report.at_least("reads that A served then", len(again), 10)


def _acknowledged(history: History, since: float, until: float) -> list[SeenWrite]:
    return [write for write in history.writes if write.acknowledged and since < write.called and write.returned < until]


def _late(history: History, since: float) -> list[object]:
    return [failure for failure in history.failures if failure.called > since]


def _stale(reads: list[SeenRead], writes: list[SeenWrite]) -> int:
    report = Report()
    return len(report.no_stale_reads("", reads, writes).violations)

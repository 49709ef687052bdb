"""``larder doctor``: ask Redis and PostgreSQL whether they are as Larder needs them."""

import argparse
import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from app.cache.partitions import name_with
from app.cache.slot import cache_name
from app.cli.environment import read_settings
from app.cli.errors import CommandFailed
from app.doctor.findings import Finding, Verdict, found_by, ok, status_of, unknown
from app.doctor.postgres_checks import PostgresChecks
from app.doctor.redis_checks import RedisChecks
from app.places import primary_of, redis_options, role_limits
from app.products.payload import SCHEMA
from app.settings import Settings

_DEADLINE_S = 9.0
_START_S = 0.5
_NOT_TRIED = ok(
    "N", "not tried: a failover. Only a failover of this installation shows that its servers change their ids then."
)
_log = logging.getLogger("larder")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="ask Redis and PostgreSQL whether they are as Larder needs them",
        description="Ask Redis and PostgreSQL whether they are as Larder needs them, within 10 s. It changes nothing but keys"
        " wtc-doctor:* that expire. The exit status is 0 if all that is needed holds, 1 if something does not, and 2 if"
        " something could not be asked.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array of the findings")


async def run(arguments: argparse.Namespace) -> int:
    """Ask, print what each check found, and return the exit status."""
    try:
        settings = read_settings()
    except CommandFailed as error:
        error.status = 2
        raise
    if arguments.json:
        findings = [finding async for finding in examine(settings)]
        entries = [
            {"check": one.check, "verdict": one.verdict, "needed": one.needed, "sentence": one.sentence} for one in findings
        ]
        print(json.dumps(entries, ensure_ascii=False, indent=1))
        return status_of(findings)
    findings = []
    async for one in examine(settings):
        findings.append(one)
        mark = one.verdict if one.needed else f"{one.verdict} (advice)"
        print(f"{one.check} {mark}: {one.sentence}", flush=True)
    status = status_of(findings)
    print(("All that is needed holds.", "Something that is needed does not hold.", "Not everything could be asked.")[status])
    return status


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the findings of all checks. PostgreSQL and Redis are asked at the same time, within the deadline."""
    async with AsyncExitStack() as opened:
        redis_checks, postgres_checks = await _open(settings, opened, head=_head())
        of_redis = asyncio.create_task(_all_of(redis_checks, _DEADLINE_S))
        of_postgres = asyncio.create_task(_all_of(postgres_checks, _DEADLINE_S))
        for finding in [*await of_redis, *await of_postgres]:
            yield finding
        if isinstance(redis_checks, RedisChecks) and isinstance(postgres_checks, PostgresChecks):
            try:
                async with asyncio.timeout(1.0):
                    for finding in await redis_checks.clocks(*await postgres_checks.clock_ms()):
                        yield finding
            except Exception as error:  # noqa: BLE001 - whatever it meets is what it found
                yield unknown("D7", f"the clocks could not be compared: {str(error) or type(error).__name__}")
    yield _NOT_TRIED


async def log_start(settings: Settings) -> None:
    """Log what does not hold of the checks that matter at a start. It takes half a second at most, and never fails."""
    async with AsyncExitStack() as opened:
        redis_checks, postgres_checks = await _open(settings, opened, head=None)
        tasks = [asyncio.create_task(_all_of(checks, _START_S, at_start=True)) for checks in (redis_checks, postgres_checks)]
        for found in await asyncio.gather(*tasks):
            for finding in found:
                if finding.verdict is Verdict.NO:
                    _log.warning("doctor %s: %s", finding.check, finding.sentence)


async def _all_of(
    checks: RedisChecks | PostgresChecks | Finding, deadline_s: float, *, at_start: bool = False
) -> list[Finding]:
    if isinstance(checks, Finding):
        return [checks]
    return [finding async for finding in found_by(checks.at_start() if at_start else checks.all(), deadline_s)]


async def _open(
    settings: Settings, opened: AsyncExitStack, *, head: str | None
) -> tuple[RedisChecks | Finding, PostgresChecks | Finding]:
    redis_checks: RedisChecks | Finding = unknown("D1", "LARDER_REDIS_URL is not set. Name a Redis.")
    postgres_checks: PostgresChecks | Finding = unknown("Q1", "LARDER_DATABASE_URL is not set. Name a PostgreSQL.")
    if settings.redis_url:
        redis_checks = RedisChecks(redis_options(settings), settings.cache_partitions)
        opened.push_async_callback(redis_checks.close)
    if settings.database_url:
        postgres_checks = PostgresChecks(
            primary_of(settings),
            timeout_ms=settings.database_connect_timeout_ms,
            schema=SCHEMA,
            namespace=name_with(cache_name(settings.cache_namespace), settings.cache_partitions),
            # One more for the keys.
            connections=settings.workers * (settings.database_connections + 1),
            role_limits=role_limits(settings),
            head=head,
            buckets=settings.buckets,
        )
        opened.push_async_callback(postgres_checks.close)
    return redis_checks, postgres_checks


def _head() -> str | None:
    from app.postgres.migrations import script_directory  # noqa: PLC0415 - a start of the service does not load Alembic

    return script_directory().get_current_head()

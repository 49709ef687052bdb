"""`larder audit`: compare every slot of the cache with the database, once."""

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from rich.console import Console
from rich.progress import Progress

from app.cache.errors import CacheError
from app.cache.inspection import Finding, Inspection
from app.cache.redis_store import RedisAuditStore, RedisAuditStores
from app.cli.environment import check_database, check_redis, read_settings
from app.cli.errors import CommandFailed
from app.main import open_database, redis_options
from app.products.source import ProductSource
from app.settings import Settings

FAULTY = 1
LISTED = 100
"""Most findings that are listed one by one."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "audit",
        help="compare every slot of the cache with the database, once",
        description=(
            "Compare every slot of the cache with its row, payload included. Exit status 1 if any is wrong, 2 if they could not"
            " be compared."
        ),
    )
    parser.add_argument("--repair", action="store_true", help="empty the slots that are wrong; reads then fill them anew")


class NotCompared(CommandFailed):
    """Nothing is known of the cache: not the same as a cache that is wrong."""

    status = 2


async def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    try:
        return await _compare(arguments)
    except CommandFailed as error:
        raise NotCompared(str(error)) from error


async def _compare(arguments: argparse.Namespace) -> int:
    settings = read_settings()
    await check_database(settings)
    if silent := await check_redis(settings):
        raise CommandFailed(f"{silent} Without it there is nothing to compare.")
    database = open_database(settings)
    try:
        async with open_audit_store(settings) as store:
            # Twice what the audit may need: an interval, and a cycle of about as long.
            patience_s = (settings.fence_ttl_max_ms + 2 * settings.audit_interval_ms) / 1000
            inspection = Inspection(store, ProductSource(database), patience_s=patience_s)
            findings = await inspection.confirm(await _suspects(inspection))
            if arguments.repair and findings:
                await store.delete([finding.key for finding in findings])
    except CacheError as error:
        raise CommandFailed(f"The comparison could not be finished, nothing was changed: {error}.") from error
    finally:
        await database.close()
    _tell(inspection.checked, findings, repaired=arguments.repair)
    return FAULTY if findings else 0


@asynccontextmanager
async def open_audit_store(settings: Settings) -> AsyncIterator[RedisAuditStore]:
    """One connection to the cache of the settings. Raises ``StoreUnavailable``."""
    stores = RedisAuditStores(
        # A person waits for this, not a request: a slow answer is better than none.
        replace(
            redis_options(settings),
            timeout_ms=10 * settings.redis_timeout_ms,
            connect_timeout_ms=10 * settings.redis_connect_timeout_ms,
        ),
        settings.cache_namespace,
    )
    await stores.start()
    try:
        async with stores.open() as store:
            yield store
    finally:
        await stores.close()


async def _suspects(inspection: Inspection) -> Sequence[Finding]:
    suspects: list[Finding] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("comparing slots", total=None)
        async for found in inspection.pages():
            suspects += found
            progress.update(task, completed=inspection.checked)
    return suspects


def _tell(checked: int, findings: Sequence[Finding], *, repaired: bool) -> None:
    for finding in findings[:LISTED]:
        print(f"{finding.key}: {finding.fault.value} (slot {finding.slot_version}, row {finding.row_version})")
    if len(findings) > LISTED:
        print(f"... and {len(findings) - LISTED} more")
    print(f"{checked} slots compared, {len(findings)} wrong{', all emptied' if repaired and findings else ''}.")
    if findings and not repaired:
        print("`larder audit --repair` empties them; `larder purge` empties the whole cache.", file=sys.stderr)

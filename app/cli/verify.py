"""``larder verify``: compare every slot of the cache, and every sum of the ledger, with the database, once."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress

from app.cache.errors import CacheError
from app.cache.inspection import Finding, Inspection
from app.cli.audit_store import open_audit_store
from app.cli.environment import check_database, check_redis, read_settings
from app.cli.errors import CommandFailed
from app.main import open_database
from app.products.balance import Deviation, deviations
from app.products.source import ProductSource

FAULTY = 1
SUMS_TIMEOUT_MS = 600_000
"""Deadline of the statement that compares all sums."""
LISTED = 100
"""Most findings that are listed one by one."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "verify",
        help="compare every slot of the cache with the database, once",
        description=(
            "Compare every slot of the cache with its row, payload included, and every stock with its ledger and its"
            " reservations. The exit status is 1 if any is wrong, and 2 if they could not be compared."
        ),
    )
    parser.add_argument("--repair", action="store_true", help="empty the slots that are wrong; reads then fill them anew")


class NotCompared(CommandFailed):
    """The slots could not be compared, so nothing is known about them."""

    status = 2


async def run(arguments: argparse.Namespace) -> int:
    """Compare, report, repair if asked to, and return the exit status."""
    try:
        return await _verify(repair=arguments.repair)
    except CommandFailed as error:
        raise NotCompared(str(error)) from error


async def _verify(*, repair: bool) -> int:
    settings = read_settings()
    await check_database(settings)
    if warning := await check_redis(settings):
        raise CommandFailed(f"{warning} Without it there is nothing to compare.")
    # One statement reads every row of the ledger, which may take longer than a client would wait.
    database = open_database(settings.model_copy(update={"database_statement_timeout_ms": SUMS_TIMEOUT_MS}))
    try:
        unbalanced = await deviations(database, limit=LISTED)
        async with open_audit_store(settings) as store:
            # The longest life of a fence, and two intervals for an audit to begin and to finish.
            patience_s = (settings.fence_ttl_max_ms + 2 * settings.audit_interval_ms) / 1000
            inspection = Inspection(store, ProductSource(database), patience_s=patience_s)
            findings = await inspection.confirm(await _suspects(inspection))
            if repair and findings:
                await store.delete([finding.key for finding in findings])
    except CacheError as error:
        raise CommandFailed(f"The comparison could not be finished, nothing was changed: {error}.") from error
    finally:
        await database.close()
    _print(inspection.checked, findings, repaired=repair)
    _print_unbalanced(unbalanced)
    return FAULTY if findings or unbalanced else 0


async def _suspects(inspection: Inspection) -> Sequence[Finding]:
    suspects: list[Finding] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("comparing slots", total=None)
        async for found in inspection.pages():
            suspects += found
            progress.update(task, completed=inspection.checked)
    return suspects


def _print(checked: int, findings: Sequence[Finding], *, repaired: bool) -> None:
    for finding in findings[:LISTED]:
        print(f"{finding.key}: {finding.fault.value} (slot {finding.slot_version}, row {finding.row_version})")
    if len(findings) > LISTED:
        print(f"... and {len(findings) - LISTED} more")
    print(f"{checked} slots compared, {len(findings)} wrong{', all emptied' if repaired and findings else ''}.")
    if findings and not repaired:
        print("`larder verify --repair` empties them; `larder purge` empties the whole cache.", file=sys.stderr)


def _print_unbalanced(found: Sequence[Deviation]) -> None:
    for product in found:
        print(
            f"{product.product_id}: stock {product.stock}, ledger {product.recorded};"
            f" held {product.reserved}, ledger {product.recorded_reserved}, reservations {product.open}"
        )
    if found:
        print(f"{len(found)} products do not add up; nothing was changed about them.")

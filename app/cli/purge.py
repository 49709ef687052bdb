"""`larder purge`: start the cache clean."""

import argparse

from app.cache.errors import CacheError
from app.cli.environment import check_redis, open_audit_store, read_settings
from app.cli.errors import CommandFailed


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    subparsers.add_parser(
        "purge",
        help="empty the cache and start it clean",
        description="Empty the cache. Needed after the database went back without a trace, such as a volume snapshot put"
        " back under it; always safe, also under load: reads go to the database until the slots are filled again.",
    )


async def run(_arguments: argparse.Namespace) -> int:
    """Do it."""
    settings = read_settings()
    if silent := await check_redis(settings):
        raise CommandFailed(f"{silent} Nothing was emptied.")
    try:
        async with open_audit_store(settings) as store:
            # Trust first, slots second: what a late publish puts back meanwhile is believed by nobody.
            await store.distrust(None)
            deleted = await store.purge(claim_ms=1)  # the fleet's next audit need not wait for this one
    except CacheError as error:
        raise CommandFailed(f"The cache is not trusted any more, but not yet empty; run it again: {error}.") from error
    print(f"{deleted} slots emptied. The next audit, within {settings.audit_interval_ms} ms, starts clean.")
    return 0

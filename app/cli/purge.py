"""``larder purge``: empty the cache."""

import argparse

from app.cache.errors import CacheError
from app.cli.audit_store import open_audit_store
from app.cli.environment import check_redis, read_settings
from app.cli.errors import CommandFailed


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    subparsers.add_parser(
        "purge",
        help="empty the cache and start it clean",
        description="Empty the cache. This is needed after the database went back in time unnoticed, for example when a"
        " volume snapshot was restored. It is always safe, even under load: reads go to the database until the slots are"
        " filled again.",
    )


async def run(_arguments: argparse.Namespace) -> int:
    """Empty the cache."""
    settings = read_settings()
    if warning := await check_redis(settings):
        raise CommandFailed(f"{warning} Nothing was emptied.")
    try:
        async with open_audit_store(settings) as store:
            # The fence is deleted before the slots, so that no reader trusts what a late publish stores meanwhile.
            await store.distrust(None)
            deleted = await store.purge(claim_ms=1)  # so that the next audit need not wait
    except CacheError as error:
        raise CommandFailed(f"The cache is not trusted any more, but not yet empty; run it again: {error}.") from error
    print(f"{deleted} slots emptied. The next audit, within {settings.audit_interval_ms} ms, starts clean.")
    return 0

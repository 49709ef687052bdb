"""``larder purge``: empty the cache."""

import argparse

from app.cache.errors import CacheError
from app.cli.audit_store import open_audit_store
from app.cli.environment import check_redis, read_settings
from app.cli.errors import CommandFailed


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "purge",
        help="start the cache clean",
        description="Start the cache clean: nothing that Redis holds now is served again. This is needed after the database"
        " went back in time unnoticed, for example when a volume snapshot was restored. It is always safe, even under load:"
        " reads go to the database until the slots are filled again.",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="also delete the slots at once, to free their memory; this looks at every key of the Redis database",
    )


async def run(arguments: argparse.Namespace) -> int:
    """Delete watermark and fence and, if asked to, the slots."""
    settings = read_settings()
    if warning := await check_redis(settings):
        raise CommandFailed(f"{warning} Nothing was changed.")
    try:
        async with open_audit_store(settings) as store:
            # Without a watermark the next audit begins a new incarnation, which makes every slot void.
            await store.start_clean()
            freed = f" {await store.unlink_all()} slots deleted." if arguments.memory else ""
    except CacheError as error:
        raise CommandFailed(f"The command was not finished; run it again: {error}.") from error
    print(f"The next audit, within {settings.audit_interval_ms} ms, starts the cache clean.{freed}")
    return 0

"""``larder serve``: the HTTP service on servers of your own."""

import argparse
import sys

from app.cli.buckets import check_buckets
from app.cli.doctor import log_start
from app.cli.environment import check_database, check_redis, read_settings
from app.server.address import bind, check_exposure
from app.server.signals import StopSignals
from app.server.supervisor import serve_by
from app.settings import PREFIX, Settings
from app.telemetry.log_format import log_to_stderr


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "serve",
        help="serve HTTP on LARDER_DATABASE_URL and LARDER_REDIS_URL",
        description="Serve HTTP on LARDER_HOST:LARDER_PORT from LARDER_DATABASE_URL and LARDER_REDIS_URL.",
    )
    parser.add_argument("--workers", metavar="N", help="processes that share the address (default: LARDER_WORKERS, or 1)")
    parser.add_argument("--migrate", action="store_true", help="bring the database's schema up to date first")


def settings_for(workers: str | None) -> Settings:
    """Return the settings of the environment, with LARDER_WORKERS replaced if the option was given, and checked like it.

    Raises:
        CommandFailed: a setting is unknown, malformed, or contradicts another one.
    """
    return read_settings({} if workers is None else {f"{PREFIX}WORKERS": workers})


async def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    settings = settings_for(arguments.workers)
    log_to_stderr(settings.log_format)
    with StopSignals() as stop, stop.cancelling(), bind(settings) as listener:
        if warning := check_exposure(listener, settings):
            print(f"larder serve: {warning}", file=sys.stderr)
        await check_database(settings, to_migrate=arguments.migrate)
        if warning := await check_redis(settings):
            print(f"larder serve: {warning}", file=sys.stderr)
        if arguments.migrate:
            from app.cli.migrate import migrate  # noqa: PLC0415 - a start without it does not load Alembic

            await migrate(settings)
            await check_database(settings)
        await check_buckets(settings)

        async def ready(url: str) -> None:
            print(f"Larder serves on {url}", flush=True)
            await log_start(settings)  # requests are served meanwhile

        await serve_by(settings, listener, stop, ready)
    return 0

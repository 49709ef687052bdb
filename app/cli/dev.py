"""``larder dev``: the service with private servers, unless others are set, and a demo catalogue. ``make run`` calls it."""

import argparse
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from psycopg.pq import Conninfo

from app.access.key_table import create_key, list_keys, revoke_keys
from app.access.keys import Scope, id_of, make_key
from app.cli.buckets import check_buckets
from app.cli.demo import load_demo, what_to_try
from app.cli.environment import check_database, check_redis, read_settings
from app.cli.errors import CommandFailed
from app.cli.migrate import migrate
from app.main import open_database
from app.server.address import bind, check_exposure
from app.server.signals import StopSignals
from app.server.supervisor import serve_by
from app.settings import Settings
from app.telemetry.log_format import log_to_stderr

_DAY_S = 86_400
_CLIENT = "dev"
"""The client of the key that a start makes."""
_DATABASE, _REDIS = "LARDER_DATABASE_URL", "LARDER_REDIS_URL"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "dev",
        help="try Larder: private servers, a demo catalogue, HTTP on 127.0.0.1:8000",
        description=(
            f"Serve HTTP on LARDER_HOST:LARDER_PORT. Unless {_DATABASE} or {_REDIS} names one, a private PostgreSQL or Redis "
            "is started for it and stopped with it; an empty catalogue gets a dozen products."
        ),
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(".larder"),
        help="where the private servers keep their files (default: %(default)s)",
    )


async def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, and then stop everything that was started."""
    # Whoever tries Larder on this machine needs no key, unless the environment says so.
    access = {"LARDER_ACCESS": os.environ.get("LARDER_ACCESS") or "open"}
    settings = read_settings(access)
    log_to_stderr(settings.log_format)
    with StopSignals() as stop, stop.cancelling(), bind(settings) as listener:
        if warning := check_exposure(listener, settings):
            print(f"larder dev: {warning}", file=sys.stderr)
        async with _private_servers(arguments.directory) as (urls, commands):
            settings = read_settings({**access, **urls})
            await check_database(settings, to_migrate=True)
            if warning := await check_redis(settings):
                print(f"larder dev: {warning}", file=sys.stderr)
            await migrate(settings)
            await check_buckets(settings)

            key = None if settings.access == "open" else await _key_of_the_session(settings)

            async def ready(url: str) -> None:
                print(what_to_try(url, await load_demo(url, key, settings.tls_certificate), key))
                for command in commands:
                    print(f"Private server, until Ctrl-C: {command}")
                sys.stdout.flush()

            await serve_by(settings, listener, stop, ready)
            print("Stopping.", flush=True)
    return 0


async def _key_of_the_session(settings: Settings) -> str:
    """Make a key that may do everything for a day, so that the tour works where keys are needed.

    Those of earlier starts are revoked.
    """
    key, digest = make_key()
    database = open_database(settings)
    try:
        await revoke_keys(database, [earlier.id for earlier in await list_keys(database) if earlier.client == _CLIENT])
        await create_key(database, id_of(key), digest, _CLIENT, set(Scope), expires_in_s=_DAY_S)
    finally:
        await database.close()
    return key


def _forget_libpq() -> None:
    """Remove libpq's variables (``PGSERVICE``, ``PGREQUIREAUTH``, …), which are about other servers than the private one."""
    for option in Conninfo.get_defaults():
        if option.envvar:
            os.environ.pop(option.envvar.decode(), None)


@contextlib.asynccontextmanager
async def _private_servers(directory: Path) -> AsyncIterator[tuple[Mapping[str, str], Sequence[str]]]:
    """Start a private server for each variable that is not set; yield the URLs by variable, and commands that reach them."""
    missing = [name for name in (_DATABASE, _REDIS) if not os.environ.get(name)]
    if not missing:
        yield {}, ()
        return
    try:
        from app import private_servers  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise CommandFailed(str(error)) from error
    urls: dict[str, str] = {}
    commands = []
    async with contextlib.AsyncExitStack() as stack:
        try:
            servers = stack.enter_context(private_servers.ServerDirectory(directory))
            if _DATABASE in missing:
                _forget_libpq()
                postgres = await private_servers.start_postgres(servers.path / "postgres")
                stack.push_async_callback(postgres.stop)
                urls[_DATABASE] = postgres.url
                commands.append(f"psql '{postgres.url}'")
            if _REDIS in missing:
                redis = await private_servers.start_redis(servers.path / "redis")
                stack.push_async_callback(redis.stop)
                urls[_REDIS] = redis.url
                commands.append(f"REDISCLI_AUTH={redis.password} redis-cli -s {redis.socket}")
        except private_servers.PrivateServerError as error:
            raise CommandFailed(str(error)) from error
        yield urls, commands

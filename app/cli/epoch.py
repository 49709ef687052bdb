"""``larder epoch``: show and choose what tells one history of the database from another."""

import argparse

from app.cache.postgres.histories import Members, choose, members
from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.main import open_database
from app.postgres.errors import DatabaseError
from app.products.source import PRODUCTS


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "epoch",
        help="show or choose what tells one history of the database from another",
        description="When the database goes back in time, the cache has to start clean. PostgreSQL's timeline shows that after"
        " every restore that PostgreSQL knows of, but not after a volume snapshot or a data directory was put back. The time of"
        " the server's start shows that, too, and then each restart of PostgreSQL is a clean start.",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--with-start-time", action="store_true", help="each start of PostgreSQL begins a new history")
    choice.add_argument("--without-start-time", action="store_true", help="a restart of PostgreSQL keeps the cache")


async def run(arguments: argparse.Namespace) -> int:
    """Choose if asked to, and show."""
    settings = read_settings()
    await check_database(settings)
    database = open_database(settings)
    try:
        if arguments.with_start_time or arguments.without_start_time:
            await choose(database, PRODUCTS, by_start=arguments.with_start_time)
        print(_sentence(await members(database, PRODUCTS)))
    except DatabaseError as error:
        raise CommandFailed(f"{error}. Nothing was changed.") from error
    finally:
        await database.close()
    return 0


def _sentence(found: Members) -> str:
    if not found.by_timeline:
        return "A history ends when PostgreSQL is started. Its timeline could not be read when the database was migrated."
    if found.by_start:
        return "A history ends when PostgreSQL begins a new timeline, and whenever it is started."
    return "A history ends when PostgreSQL begins a new timeline. A restart keeps the cache."

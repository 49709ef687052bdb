"""``larder buckets``: show and set which buckets of products a database holds."""

import argparse

from app.buckets import parse_ranges, ranges_of
from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.main import open_database
from app.postgres.errors import DatabaseError
from app.products.pair_table import HoldsOthers, InUse, held_buckets, hold
from app.settings import Settings


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "buckets",
        help="show or set which part of the products a database holds, if there are several databases",
        description="With more than one PostgreSQL each holds some of 1024 buckets of products: docs/TOPOLOGIES.md. The buckets"
        " are in the database and in LARDER_BUCKETS, and an instance does not start if the two differ.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("show", help="show the buckets of the database")
    setting = actions.add_parser("set", help="set them, while no instance runs")
    setting.add_argument("ranges", metavar="RANGES", help="such as 0-511,600; 0-1023 are all")


async def run(arguments: argparse.Namespace) -> int:
    """Set if asked to, and show."""
    settings = read_settings()
    await check_database(settings)
    database = open_database(settings)
    try:
        if arguments.action == "set":
            await hold(database, _checked(arguments.ranges))
        held = await held_buckets(database)
    except (DatabaseError, HoldsOthers) as error:
        raise CommandFailed(f"{error}. Nothing was changed.") from error
    except InUse as error:
        raise CommandFailed(f"{error}. Nothing was changed. Stop every instance that uses this database first.") from error
    finally:
        await database.close()
    print(f"The database holds the buckets {held}." if held else "The database holds all products.")
    return 0


def _checked(text: str) -> str:
    try:
        numbers = parse_ranges(text)
    except ValueError as error:
        raise CommandFailed(f"RANGES {error}") from error
    if not numbers:
        raise CommandFailed("RANGES names no bucket. To serve all products, name 0-1023.")
    return ranges_of(numbers)


async def check_buckets(settings: Settings) -> None:
    """Check that the database holds the buckets of the settings.

    Raises:
        CommandFailed: they differ, or the database does not say which it holds.
    """
    database = open_database(settings)
    try:
        held = await held_buckets(database)
    except DatabaseError as error:
        raise CommandFailed(f"which buckets the database holds cannot be read: {error}") from error
    finally:
        await database.close()
    if held != settings.buckets:
        named = f"is {settings.buckets}" if settings.buckets else "is not set"
        raise CommandFailed(
            f"LARDER_BUCKETS {named}, and the database holds {held or 'all products'}. Correct the variable; if the database"
            " is a new one or no instance runs, `larder buckets set` says which buckets it holds."
        )

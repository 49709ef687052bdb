"""``larder buckets``: show, set and move the buckets of products that a database holds."""

import argparse

from app.buckets import parse_ranges, ranges_of
from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.main import open_database
from app.postgres.database import Database
from app.postgres.errors import DatabaseError
from app.products.pair_move import BrokenOff, CannotMove, Move
from app.products.pair_table import HoldsOthers, InUse, MoveUnfinished, held_buckets, hold
from app.settings import Settings

_NONE = "none"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "buckets",
        help="show, set or move the buckets of products that a database holds, if there are several databases",
        description="With more than one PostgreSQL each holds some of 1024 buckets of products: docs/TOPOLOGIES.md. The buckets"
        " are in the database and in LARDER_BUCKETS, and an instance does not start if the two differ.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("show", help="show the buckets of the database")
    setting = actions.add_parser("set", help="set them, while no instance runs")
    setting.add_argument(
        "ranges", metavar="RANGES", help="such as 0-511,600; 0-1023 are all; `none` for a database to which they will be moved"
    )
    setting.add_argument(
        "--bury",
        action="store_true",
        help="delete the products of all other buckets: for a database that was restored to a time before they moved away",
    )
    moving = actions.add_parser("move", help="move some of them to another database, while instances serve")
    moving.add_argument("ranges", metavar="RANGES", help="the buckets to move, such as 500-511")
    moving.add_argument(
        "--to", metavar="URL", required=True, help="the other database, to which `larder buckets set` gave a part"
    )


async def run(arguments: argparse.Namespace) -> int:
    """Set or move buckets if asked to, and show which ones the database holds."""
    settings = read_settings()
    await check_database(settings)
    database = open_database(settings)
    try:
        if arguments.action == "set":
            buried = await hold(database, _checked(arguments.ranges), bury=arguments.bury)
            if arguments.bury:
                print(f"{buried} products of other buckets were deleted.")
        elif arguments.action == "move":
            await _move(settings, database, arguments.to, parse_ranges(_checked(arguments.ranges)))
        found = await held_buckets(database)
    except MoveUnfinished as error:
        raise CommandFailed(
            f"{error}. Nothing was changed. Finish that first: give the same `larder buckets move` again. If a restore has made"
            " that impossible, see docs/RECOVERY.md."
        ) from error
    except (DatabaseError, HoldsOthers, CannotMove) as error:
        raise CommandFailed(f"{error}. Nothing was changed.") from error
    except InUse as error:
        raise CommandFailed(f"{error}. Nothing was changed. Stop every instance that uses this database first.") from error
    finally:
        await database.close()
    print(f"The database holds {_named(found)}.")
    if found is not None and found[1]:
        print(f"The buckets {found[1]} move to or from another database: the same `larder buckets move` goes on with that.")
    return 0


async def _move(settings: Settings, source: Database, url: str, numbers: frozenset[int]) -> None:
    """Move buckets. Raises ``CommandFailed``, ``CannotMove``."""
    own = {"database_url": url, "database_password_file": "", "database_password_command": ""}
    try:
        target = open_database(Settings.model_validate(settings.model_dump() | own))
    except ValueError as error:
        raise CommandFailed("--to is not a PostgreSQL URL: postgresql://user:password@host:5432/database") from error
    try:
        count = await Move(source, target, numbers, _tell).run()
        there = await held_buckets(target)
    except (BrokenOff, DatabaseError) as error:
        raise CommandFailed(
            f"the move broke off: {error}. Nothing is lost; `larder buckets show` tells how far it came, and the same command"
            " goes on from there."
        ) from error
    finally:
        await target.close()
    print(f"{count} products were moved. The other database holds {_named(there)} now.")
    print(
        "Give the router the new map now, and set LARDER_BUCKETS of both pairs to what their databases hold, before an instance"
        " is started again. Running instances go on with what their databases hold."
    )


async def _tell(text: str) -> None:
    print(text, flush=True)


def _named(found: tuple[str, str] | None) -> str:
    return "all products" if found is None else f"the buckets {found[0]}" if found[0] else "no buckets"


def _checked(text: str) -> str:
    try:
        return ranges_of(parse_ranges("" if text == _NONE else text))
    except ValueError as error:
        raise CommandFailed(f"RANGES {error}") from error


async def check_buckets(settings: Settings) -> None:
    """Check that the database holds the buckets of the settings; those that move now may be among them or not.

    Raises:
        CommandFailed: they differ, or the database does not say which it holds.
    """
    database = open_database(settings)
    try:
        found = await held_buckets(database)
    except DatabaseError as error:
        raise CommandFailed(f"which buckets the database holds cannot be read: {error}") from error
    finally:
        await database.close()
    held, moving = found or ("", "")
    both = ranges_of(parse_ranges(held) | parse_ranges(moving))
    if settings.buckets not in (held, both) or (found is None) != (not settings.buckets):
        named = f"is {settings.buckets}" if settings.buckets else "is not set"
        raise CommandFailed(
            f"LARDER_BUCKETS {named}, and the database holds {_named(found)}. Correct the variable; if no instance uses the"
            " database, `larder buckets set` says which buckets it holds."
        )

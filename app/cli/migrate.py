"""`larder migrate`: bring the database's schema up to date."""

import argparse

from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.postgres.errors import DatabaseError
from app.postgres.migrations import upgrade


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    subparsers.add_parser(
        "migrate",
        help="bring the database's schema up to date",
        description="Bring the schema of LARDER_DATABASE_URL up to date. Several at once wait for one another.",
    )


async def run(_arguments: argparse.Namespace) -> int:
    """Do it."""
    settings = read_settings()
    await check_database(settings)
    await migrate(settings.database_url)
    print("The database's schema is up to date.")
    return 0


async def migrate(database_url: str) -> None:
    """Run the migrations that the database lacks.

    Raises:
        CommandFailed: the database is newer than this Larder, or cannot be changed; it was left as it was.
    """
    try:
        await upgrade(database_url)
    except DatabaseError as error:
        raise CommandFailed(str(error)) from error

"""`larder migrate`: bring the database's schema up to date, and end a rolling deploy."""

import argparse

from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.places import primary_of
from app.postgres.errors import DatabaseError
from app.postgres.migrations import finish, payload_schema, upgrade
from app.products.payload import SCHEMA
from app.settings import Settings

_RELATION = "products"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "migrate",
        help="bring the database's schema up to date",
        description="Bring the schema of LARDER_DATABASE_URL up to date. Several at once wait for one another. Instances of the"
        " release before go on working; when the last of them is stopped, end the deploy with --finish.",
    )
    parser.add_argument(
        "--finish", action="store_true", help="end a rolling deploy: from now on instances of older releases refuse to work"
    )


async def run(arguments: argparse.Namespace) -> int:
    """Migrate, or finish."""
    settings = read_settings()
    await check_database(settings)
    await migrate(settings)
    primary = primary_of(settings)
    try:
        if arguments.finish:
            done = await finish(primary, _RELATION, SCHEMA)
            print(
                f"Finished: the payload is at schema {SCHEMA}, and older releases refuse to work from now on."
                if done
                else "There was nothing to finish."
            )
            return 0
        found = await payload_schema(primary, _RELATION)
    except DatabaseError as error:
        raise CommandFailed(f"{error}. The migration is not finished; instances of both releases go on working.") from error
    print("The database's schema is up to date.")
    if found < SCHEMA:
        print(
            f"The payload is still at schema {found} and this release knows {SCHEMA}: when the last instance of the release"
            " before is stopped, run: larder migrate --finish"
        )
    return 0


async def migrate(settings: Settings) -> None:
    """Run the migrations that the database lacks.

    Raises:
        CommandFailed: the database is newer than this Larder, is in use, or cannot be changed; it was left as it was.
    """
    try:
        await upgrade(primary_of(settings), schemas={_RELATION: SCHEMA})
    except DatabaseError as error:
        raise CommandFailed(str(error)) from error

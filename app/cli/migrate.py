"""`larder migrate`: bring the database's schema up to date, and end a rolling deploy."""

import argparse
from collections.abc import Sequence

import psycopg

from app.cli.environment import check_database, read_settings
from app.cli.errors import CommandFailed
from app.places import migration_primary_of, primary_of, role_limits
from app.postgres.errors import DatabaseError
from app.postgres.migrations import finish, payload_schema, upgrade
from app.postgres.pooler import role_parameters, set_role
from app.postgres.session import Deadline
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
    await check_database(settings, to_migrate=True)
    await migrate(settings)
    primary = migration_primary_of(settings)
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
        CommandFailed: the database is newer than this Larder, is in use, or cannot be changed; it was left as it was. Or the
            settings of the role could not be changed.
    """
    try:
        await upgrade(migration_primary_of(settings), schemas={_RELATION: SCHEMA})
    except DatabaseError as error:
        raise CommandFailed(str(error)) from error
    if settings.database_pooler == "transaction" and (changed := await _set_role(settings)):
        print(
            f"The role has now its settings for this database ({', '.join(changed)}). Sessions that are open keep the old ones:"
            " run RECONNECT in the pooler (PgBouncer's console)."
        )


async def _set_role(settings: Settings) -> Sequence[str]:
    """Give the service's role the parameters that no session can have behind a pooler; return those that differed."""
    try:
        connection = await primary_of(settings).open(settings.database_connect_timeout_ms)
        async with connection:
            with Deadline(connection, settings.database_statement_timeout_ms / 1000):
                return await set_role(connection, role_parameters(role_limits(settings)))
    except (psycopg.Error, DatabaseError) as error:
        raise CommandFailed(
            f"The schema is up to date, but the settings of the role behind LARDER_DATABASE_URL could not be changed: {error}"
        ) from error
